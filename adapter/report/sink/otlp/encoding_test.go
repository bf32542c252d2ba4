package otlp

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func toJSON(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	raw, err := protojson.Marshal(m)
	require.NoError(tb, err)
	var indented bytes.Buffer // protojson's white space varies on purpose
	require.NoError(tb, json.Indent(&indented, raw, "", "  "))
	var compact bytes.Buffer
	require.NoError(tb, json.Compact(&compact, indented.Bytes()))
	indented.Reset()
	require.NoError(tb, json.Indent(&indented, compact.Bytes(), "", "  "))
	return append(indented.Bytes(), '\n')
}

// TestGolden compares the requests that the samples make with testdata. With UPDATE_GOLDEN=1 it writes them instead.
func TestGolden(t *testing.T) {
	e := newEncoding(map[string]string{"k8s.cluster.name": "west"})
	for kind, list := range samples() {
		t.Run(kind.String(), func(t *testing.T) {
			batch := newBatch(t, kind, list...)
			indices := make([]int, 0, len(batch))
			var wanted, refused []int
			for i, s := range list {
				indices = append(indices, i)
				require.NoError(t, record.Check(kind, s.raw), s.name)
				if s.refused != "" {
					refused = append(refused, i)
				} else {
					wanted = append(wanted, i)
				}
			}
			signal, known := signalOf(kind)
			require.True(t, known)
			var r refusals
			request := e.encode(t.Context(), signal, batch, indices, &r)
			assert.Equal(t, wanted, request.records)
			assert.Equal(t, refused, r.records)

			got := toJSON(t, request.message)
			file := filepath.Join("testdata", kind.String()+".json")
			if os.Getenv("UPDATE_GOLDEN") != "" {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, got, 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
		})
	}
}

func TestRefusedSamples(t *testing.T) {
	e := newEncoding(nil)
	for kind, list := range samples() {
		for i, s := range list {
			if s.refused == "" {
				continue
			}
			t.Run(kind.String()+"/"+s.name, func(t *testing.T) {
				signal, _ := signalOf(kind)
				var r refusals
				request := e.encode(t.Context(), signal, newBatch(t, kind, list...), []int{i}, &r)
				assert.Empty(t, request.records)
				assert.Equal(t, []int{i}, r.records)
				require.ErrorContains(t, r.err(), s.refused)
			})
		}
	}
}

func TestMalformedRecordsAreRefused(t *testing.T) {
	e := newEncoding(nil)
	for _, kind := range record.Kinds() {
		signal, _ := signalOf(kind)
		var r refusals
		request := e.encode(t.Context(), signal, newBatch(t, kind, sample{raw: "\xfa\x06\x7fabc"}), []int{0}, &r)
		assert.Empty(t, request.records)
		assert.Equal(t, []int{0}, r.records)
		require.ErrorContains(t, r.err(), kind.String())
	}
}

func TestNanos(t *testing.T) {
	for text, want := range map[string]uint64{
		"1970-01-01T00:00:00.000000001Z": 1,
		"2026-11-21T12:00:00.5Z":         noon*1e9 + 5e8,
		"2554-07-21T23:34:32.999999999Z": 18_446_744_072_999_999_999,
		"2554-07-21T23:34:33Z":           0,
		"1969-12-31T23:59:59Z":           0,
		"0001-01-01T00:00:00Z":           0,
		"9999-12-31T23:59:59Z":           0,
	} {
		parsed, err := time.Parse(time.RFC3339Nano, text)
		require.NoError(t, err)
		got, ok := nanos(parsed)
		assert.Equal(t, want, got, text)
		assert.Equal(t, want != 0, ok, text)
	}
}

func TestOwnSpanID(t *testing.T) {
	for _, id := range []uint64{1, math.MaxUint64, math.MaxUint64 - 1, 0xa2fb4a1d1a96d312} {
		shared := []byte{byte(id >> 56), byte(id >> 48), byte(id >> 40), byte(id >> 32), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
		own := ownSpanID(shared)
		assert.NotEqual(t, shared, own)
		assert.NotEqual(t, make([]byte, 8), own)
		assert.Equal(t, own, ownSpanID(slices.Clone(shared)), "both sides find the same")
	}
}
