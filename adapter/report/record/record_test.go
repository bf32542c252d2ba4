package record_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// Kinds are kept on disks by number and in lines by string: neither may change.
func TestKindsAreStable(t *testing.T) {
	names := map[record.Kind]string{1: "logentry", 2: "metric", 3: "tracespan", 4: "edge", 5: "reportnothing", 6: "decision"}
	assert.Len(t, record.Kinds(), len(names))
	for _, kind := range record.Kinds() {
		assert.Equal(t, names[kind], kind.String())
		parsed, ok := record.ParseKind(kind.String())
		assert.True(t, ok)
		assert.Equal(t, kind, parsed)
	}
	for _, name := range []string{"", "unknown", "LogEntry"} {
		_, ok := record.ParseKind(name)
		assert.False(t, ok, name)
	}
	for _, kind := range []record.Kind{0, 7, 255} {
		assert.Equal(t, "unknown", kind.String())
	}
}

func TestID(t *testing.T) {
	r := newRecord(t, record.KindNothing, "")
	assert.Equal(t, "9f86d081884c7d659a2feaa0c55ad015-1042-7", r.ID())
	assert.Equal(t, "9f86d081884c7d659a2feaa0c55ad015", r.Spool.String())
	assert.Equal(t, "00000000000000000000000000000000-18446744073709551615-0", (&record.Record{Sequence: 1<<64 - 1}).ID())
}

func TestCheckAcceptsWhatIsWellFormed(t *testing.T) {
	for kind, list := range samples() {
		for _, c := range list {
			require.NoError(t, record.Check(kind, c.raw), "%s: %s", kind, c.name)
		}
	}
}

func TestCheckRefusesWhatIsMalformed(t *testing.T) {
	for kind, list := range malformedSamples() {
		for _, c := range list {
			t.Run(kind.String()+"/"+c.name, func(t *testing.T) {
				require.ErrorIs(t, record.Check(kind, c.raw), wire.ErrMalformed)
				require.ErrorContains(t, record.Check(kind, c.raw), kind.String())

				r := newRecord(t, kind, c.raw)
				line, err := record.AppendJSON([]byte("before"), &r)
				require.ErrorIs(t, err, wire.ErrMalformed)
				require.Equal(t, "before", string(line))
				require.Error(t, decode(kind, c.raw))
			})
		}
	}
}

// A record that ends early is refused, or it is one that ended at the end of a field: it never panics.
func TestCheckRefusesWhatIsCut(t *testing.T) {
	for kind, list := range samples() {
		for _, c := range list {
			for size := range len(c.raw) {
				cut := c.raw[:size]
				err := record.Check(kind, cut)
				require.Equal(t, wholeFields(cut), err == nil, "%s: %s, %d bytes: %v", kind, c.name, size, err)
			}
		}
	}
}

// wholeFields reports whether a message that was well-formed still ends at the end of a field.
func wholeFields(message string) bool {
	r := wire.NewReader(message)
	for _, typ, ok := r.Next(); ok; _, typ, ok = r.Next() {
		r.Skip(typ)
	}
	return r.Err() == nil
}

func TestUnknownKindsAreRefused(t *testing.T) {
	for _, kind := range []record.Kind{0, 7, 255} {
		require.ErrorIs(t, record.Check(kind, ""), record.ErrKind)
		line, err := record.AppendJSON([]byte("before"), &record.Record{Kind: kind})
		require.ErrorIs(t, err, record.ErrKind)
		require.Equal(t, "before", string(line))
	}
}

// decode decodes a record into the type of its kind and keeps the error.
func decode(kind record.Kind, raw string) error {
	var err error
	switch kind {
	case record.KindLogEntry:
		_, err = record.DecodeLogEntry(raw)
	case record.KindMetric:
		_, err = record.DecodeMetric(raw)
	case record.KindTraceSpan:
		_, err = record.DecodeTraceSpan(raw)
	case record.KindEdge:
		_, err = record.DecodeEdge(raw)
	case record.KindNothing:
		_, err = record.DecodeNothing(raw)
	case record.KindDecision:
		_, err = record.DecodeDecision(raw)
	default:
		err = record.ErrKind
	}
	return err
}
