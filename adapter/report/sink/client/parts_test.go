package client

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// fakeSide takes all of a part or nothing, like a web server, or all but some, like a broker.
type fakeSide struct {
	bad    map[int]bool // records, by their place in the batch
	picky  bool         // takes the others
	fail   map[int]error
	calls  int
	parts  [][]int
	stored map[int]int // how often each was taken
}

var errBad = errors.New("the fake side dislikes it")

func (f *fakeSide) send(_ context.Context, part []record.Record) error {
	f.calls++
	var places, bad []int
	for i := range part {
		places = append(places, part[i].Index)
		if f.bad[part[i].Index] {
			bad = append(bad, i)
		}
	}
	f.parts = append(f.parts, places)
	if err := f.fail[f.calls]; err != nil {
		return err
	}
	if len(bad) > 0 && !f.picky {
		bad = bad[:0]
		for i := range part {
			bad = append(bad, i)
		}
	}
	for i, place := range places {
		if !slices.Contains(bad, i) {
			if f.stored == nil {
				f.stored = map[int]int{}
			}
			f.stored[place]++
		}
	}
	if len(bad) > 0 {
		return &report.Undelivered{Permanent: true, Records: bad, Err: errBad}
	}
	return nil
}

func batch(n int) []record.Record {
	records := make([]record.Record, n)
	for i := range records {
		records[i] = record.Record{Sequence: 7, Index: i, Kind: record.KindNothing}
	}
	return records
}

func TestPartsFindTheRefused(t *testing.T) {
	for name, c := range map[string]struct {
		size  int
		bad   []int
		calls int // at most
	}{
		"none":      {100, nil, 1},
		"first":     {100, []int{0}, 1 + 2*bits.Len(100)},
		"last":      {100, []int{99}, 1 + 2*bits.Len(100)},
		"middle":    {1000, []int{517}, 1 + 2*bits.Len(1000)},
		"two":       {64, []int{3, 60}, 1 + 4*bits.Len(64)},
		"all of 1":  {1, []int{0}, 1},
		"all of 33": {33, batchIndices(33), 2 * 33},
		"empty":     {0, nil, 0},
	} {
		for _, picky := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				side := &fakeSide{bad: map[int]bool{}, picky: picky}
				for _, i := range c.bad {
					side.bad[i] = true
				}
				var parts Parts
				err := parts.Deliver(t.Context(), batch(c.size), side.send)
				assert.LessOrEqual(t, side.calls, c.calls)
				for i := range c.size {
					want := 1
					if side.bad[i] {
						want = 0
					}
					assert.Equal(t, want, side.stored[i], "record %d", i)
				}
				if c.bad == nil {
					require.NoError(t, err)
					return
				}
				u, ok := errors.AsType[*report.Undelivered](err)
				require.True(t, ok)
				assert.True(t, u.Permanent)
				assert.Equal(t, c.bad, u.Records)
				require.ErrorIs(t, err, errBad)
				assert.Empty(t, parts.known)
			})
		}
	}
}

func batchIndices(n int) []int {
	indices := make([]int, n)
	for i := range indices {
		indices[i] = i
	}
	return indices
}

// An attempt that ends before all is settled is gone on with by the next.
func TestPartsGoOn(t *testing.T) {
	cut := errors.New("cut off")
	side := &fakeSide{bad: map[int]bool{2: true, 5: true}, fail: map[int]error{}}
	const enough = 5 // log2(8)+1 calls lead to a record that is alone
	for call := enough; call < 100; call += enough {
		side.fail[call] = cut
	}
	var parts Parts
	var err error
	left := batch(8)
	for range 10 {
		if err = parts.Deliver(t.Context(), left, side.send); !errors.Is(err, cut) {
			break
		}
		left = rest(left, err)
	}
	u, ok := errors.AsType[*report.Undelivered](err)
	require.True(t, ok && u.Permanent, "no progress: %v", err)
	assert.Greater(t, side.calls, 2*enough, "it was cut off")
	var refused []int
	for _, i := range u.Records {
		refused = append(refused, left[i].Index)
	}
	assert.Equal(t, []int{2, 5}, refused)
	for i := range 8 {
		assert.LessOrEqual(t, side.stored[i], 1, "what was delivered is not sent again")
	}
	assert.Empty(t, parts.known)
}

// rest returns the records that a lane delivers again after an error.
func rest(batch []record.Record, err error) (records []record.Record) {
	u, ok := errors.AsType[*report.Undelivered](err)
	if !ok || u.Records == nil {
		return batch
	}
	for _, i := range u.Records {
		records = append(records, batch[i])
	}
	return records
}

func TestPartsPartlyRetryable(t *testing.T) {
	away := errors.New("a fake partition is away")
	attempts := 0
	var second []int
	send := func(_ context.Context, part []record.Record) error {
		attempts++
		if attempts == 1 {
			return &report.Undelivered{Records: []int{1, 3}, After: time.Minute, Err: away}
		}
		for i := range part {
			second = append(second, part[i].Index)
		}
		return nil
	}
	var parts Parts
	err := parts.Deliver(t.Context(), batch(4), send)
	require.ErrorIs(t, err, away)
	u, ok := errors.AsType[*report.Undelivered](err)
	require.True(t, ok)
	assert.Equal(t, &report.Undelivered{Records: []int{1, 3}, After: time.Minute, Err: away}, u)
	require.NoError(t, parts.Deliver(t.Context(), rest(batch(4), err), send))
	assert.Equal(t, []int{1, 3}, second)
}

func TestPartsPassOn(t *testing.T) {
	for name, c := range map[string]struct {
		answer error
		check  func(t *testing.T, err error)
	}{
		"plain error": {errBad, func(t *testing.T, err error) {
			t.Helper()
			assert.Equal(t, errBad, err)
		}},
		"throttled": {report.Throttled(time.Minute, errBad), func(t *testing.T, err error) {
			t.Helper()
			assert.Equal(t, report.Throttled(time.Minute, errBad), err)
		}},
		"permanent for all": {report.Permanent(errBad), func(t *testing.T, err error) {
			t.Helper()
			u, ok := errors.AsType[*report.Undelivered](err)
			require.True(t, ok)
			assert.True(t, u.Permanent)
			assert.Equal(t, batchIndices(4), u.Records)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var parts Parts
			calls := 0
			c.check(t, parts.Deliver(t.Context(), batch(4), func(context.Context, []record.Record) error {
				calls++
				return c.answer
			}))
			assert.Equal(t, 1, calls)
		})
	}
}

func TestPartsForgetRatherThanGrow(t *testing.T) {
	var parts Parts
	for sequence := range uint64(5) {
		records := batch(maxKnown / 3)
		for i := range records {
			records[i].Sequence = sequence
		}
		err := parts.Deliver(t.Context(), records, func(_ context.Context, part []record.Record) error {
			if len(part) > 1 {
				return &report.Undelivered{Permanent: true, Records: batchIndices(len(part)), Err: errBad}
			}
			if part[0].Index == len(records)-1 {
				return errBad
			}
			return report.Permanent(errBad)
		})
		require.Error(t, err)
		assert.NotEmpty(t, parts.known)
		assert.LessOrEqual(t, len(parts.known), maxKnown)
	}
}

func TestPartsEndWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var parts Parts
	side := &fakeSide{bad: map[int]bool{0: true}}
	err := parts.Deliver(ctx, batch(100), func(ctx context.Context, part []record.Record) error {
		cancel()
		return side.send(ctx, part)
	})
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, 1, side.calls)
}
