package deadletter

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/jsonlines"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func records() []record.Record {
	d := record.Decision{ID: "a", Handler: "bookinfo", Instance: "i", Outcome: "deny"}
	base := record.Record{
		Spool: record.SpoolID{1, 0xff}, Sequence: 1 << 63, Handler: "bookinfo", Caller: "spiffe://<mixer>\n", Arrived: time.Unix(1795262400, 123).UTC(),
	}
	whole, spoilt, frame := base, base, base
	whole.Kind, whole.Raw = record.KindDecision, string(d.Append(nil))
	spoilt.Kind, spoilt.Raw, spoilt.Index = record.KindMetric, "\xff\x00\xfe", 12
	spoilt.Delivery = &record.Delivery{
		SampleOneIn: 10, Severities: []record.Severity{{Text: "notice", Number: record.SeverityInfo}},
		Metrics: []record.MetricRule{{Instance: "i", Name: "n", Kind: record.MetricGauge, Unit: "By", Bounds: []float64{1, 2}}},
	}
	frame.Raw, frame.Handler, frame.Caller = "\x02 a frame of another version", "", ""
	return []record.Record{whole, spoilt, frame}
}

func TestKeepAndParse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dead")
	f, err := NewFile(dir, "kafka", jsonlines.Rotation{})
	require.NoError(t, err)
	want := records()
	before := time.Now()
	require.NoError(t, f.Keep(want, errors.New("the broker said \"no\"\nand left")))
	require.NoError(t, f.Keep(nil, errors.New("nothing")))
	require.NoError(t, f.Close())

	content, err := os.ReadFile(filepath.Join(dir, "kafka.jsonl"))
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	require.Len(t, lines, len(want))
	for i, line := range lines {
		letter, err := Parse([]byte(line))
		require.NoError(t, err)
		assert.Equal(t, want[i], letter.Record, "a letter is enough to deliver the record again")
		assert.Equal(t, "kafka", letter.Sink)
		assert.Equal(t, "the broker said \"no\"\nand left", letter.Cause)
		assert.WithinRange(t, letter.At, before.Add(-time.Second), time.Now().Add(time.Second))
	}
	var first struct{ Record json.RawMessage }
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &first))
	assert.NotContains(t, lines[0], "delivery", "the default is left out")
	rendered, err := record.AppendJSON(nil, &want[0])
	require.NoError(t, err)
	assert.Equal(t, string(rendered), string(first.Record))
}

func TestKeepFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dead")
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	f, err := NewFile(dir, "kafka", jsonlines.Rotation{})
	require.NoError(t, err)
	require.ErrorContains(t, f.Keep(records(), errors.New("x")), dir)
	require.NoError(t, os.Remove(dir))
	require.NoError(t, f.Keep(records(), errors.New("x")), "it goes on when it can")
	require.NoError(t, f.Close())
}

func TestNewFileRefuses(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "../x"} {
		_, err := NewFile(t.TempDir(), name, jsonlines.Rotation{})
		require.ErrorContains(t, err, "must do as a file's")
	}
	_, err := NewFile("", "kafka", jsonlines.Rotation{})
	require.ErrorContains(t, err, "directory for dead letters is empty")
}

const goodID = "000000000000000000000000000000ff-1-1"

func TestParseRefuses(t *testing.T) {
	for _, line := range []string{
		"", "{}", "null", `{"record":{"id":"00-1-1"}}`, `{"record":{"id":"` + strings.Repeat("zz", 16) + `-1-1"}}`, `{"raw":"&"}`,
		`{"record":{"id":"` + goodID + `"},"delivery":"&"}`, `{"record":{"id":"` + goodID + `"},"delivery":"CA=="}`,
		`{"record":{"id":"` + goodID + `1"}`, `{"record":{"id":"` + strings.Replace(goodID, "-1-", "-01-", 1) + `"}}`,
		`{"record":{"id":"` + strings.ToUpper(goodID) + `"}}`,
	} {
		_, err := Parse([]byte(line))
		require.ErrorContains(t, err, "not a dead letter", "%s", line)
	}
}

// Whatever a line is, parsing ends; and a letter that was read is read from what Keep writes of it.
func FuzzParse(f *testing.F) {
	seed := filepath.Join(f.TempDir(), "dead")
	letters, err := NewFile(seed, "kafka", jsonlines.Rotation{})
	require.NoError(f, err)
	require.NoError(f, letters.Keep(records(), errors.New("refused")))
	require.NoError(f, letters.Close())
	content, err := os.ReadFile(filepath.Join(seed, "kafka.jsonl"))
	require.NoError(f, err)
	for line := range strings.Lines(string(content)) {
		f.Add([]byte(line))
		f.Add([]byte(line[:len(line)/2]))
	}
	f.Add([]byte(`{"record":{"id":"` + goodID + `","kind":"metric"},"delivery":"CAo=","raw":""}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, line []byte) {
		letter, err := Parse(line)
		if err != nil {
			require.ErrorContains(t, err, "not a dead letter")
			return
		}
		path := filepath.Join(dir, "again.jsonl")
		again, err := NewFile(dir, "again", jsonlines.Rotation{})
		require.NoError(t, err)
		defer func() {
			require.NoError(t, again.Close())
			require.NoError(t, os.Remove(path))
		}()
		require.NoError(t, again.Keep([]record.Record{letter.Record}, errors.New(letter.Cause)))
		written, err := os.ReadFile(path)
		require.NoError(t, err)
		back, err := Parse(written)
		require.NoError(t, err, "%s", written)
		require.True(t, letter.Record.Arrived.Equal(back.Record.Arrived))
		back.Record.Arrived = letter.Record.Arrived
		require.Equal(t, string(letter.Record.Delivery.Append(nil)), string(back.Record.Delivery.Append(nil)))
		back.Record.Delivery = letter.Record.Delivery
		if letter.Record.Kind == record.KindDecision {
			back.Record.Handler = letter.Record.Handler // the line has the decision's own
		}
		require.Equal(t, letter.Record, back.Record)
	})
}

func TestDiscarder(t *testing.T) {
	var log strings.Builder
	d := NewDiscarder("stdout", slog.New(slog.NewJSONHandler(&log, nil)))
	for range 3 {
		require.NoError(t, d.Keep(records(), errors.New("refused")))
	}
	require.NoError(t, d.Keep(nil, errors.New("refused")))
	assert.EqualValues(t, 9, d.Discarded())
	assert.Equal(t, 1, strings.Count(log.String(), "\n"), "the log is not flooded")
	for _, part := range []string{`"sink":"stdout"`, `"records":3`, `"error":"refused"`, "no directory for dead letters"} {
		assert.Contains(t, log.String(), part)
	}
	require.NoError(t, d.Close())
}
