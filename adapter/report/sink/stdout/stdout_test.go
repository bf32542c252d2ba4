package stdout

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// fakeStream counts writes, and takes only half of one and fails where it is told.
type fakeStream struct {
	bytes.Buffer

	writes int
	fail   error
}

func (f *fakeStream) Write(p []byte) (int, error) {
	f.writes++
	if f.fail != nil {
		n, _ := f.Buffer.Write(p[:len(p)/3])
		return n, f.fail
	}
	return f.Buffer.Write(p)
}

func batch() []record.Record {
	d := record.Decision{ID: "a", Outcome: "deny"}
	raw := string(d.Append(nil))
	return []record.Record{{Kind: record.KindDecision, Raw: raw}, {Raw: "x"}, {Kind: record.KindDecision, Raw: raw}}
}

func TestDeliver(t *testing.T) {
	var to fakeStream
	s := New(&to)
	var u *report.Undelivered
	require.ErrorAs(t, s.Deliver(t.Context(), batch()), &u)
	assert.Equal(t, []int{1}, u.Records)
	assert.Equal(t, 1, to.writes)
	assert.Equal(t, 2, strings.Count(to.String(), "\n"))
	require.NoError(t, s.Close(t.Context()))
}

func TestTornWrite(t *testing.T) {
	to := fakeStream{fail: io.ErrClosedPipe}
	s := New(&to)
	b := batch()[:1]
	err := s.Deliver(t.Context(), b)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	var u *report.Undelivered
	require.NotErrorAs(t, err, &u, "it is retryable")
	to.fail = nil
	require.NoError(t, s.Deliver(t.Context(), b))
	want, err := record.AppendJSON(nil, &b[0])
	require.NoError(t, err)
	lines := strings.Split(to.String(), "\n")
	assert.Equal(t, string(want), lines[1], "the second attempt begins a line of its own")
}
