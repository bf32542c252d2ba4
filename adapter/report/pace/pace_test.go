package pace

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var none *Checks
		none.Served(time.Now())
		assert.False(t, none.Serving())

		c := New()
		assert.False(t, c.Serving(), "there was none yet")
		for range 3 {
			c.Served(time.Now())
			assert.True(t, c.Serving())
			time.Sleep(recent - grain - 1)
			assert.True(t, c.Serving())
		}
		for range 100 {
			c.Served(time.Now())
			time.Sleep(grain / 4)
		}
		time.Sleep(recent - 2*grain)
		assert.True(t, c.Serving(), "one of many in a row counts, if not the last")
		time.Sleep(2 * grain)
		assert.False(t, c.Serving())
	})
}

func TestOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, n = 50 * time.Microsecond, 1000
		checks := New()
		paced := NewContext(t.Context(), checks)
		took := func(ctx context.Context) time.Duration {
			var seen []int
			begin := time.Now()
			for i := range Over(ctx, make([]string, n)) {
				seen = append(seen, i)
				time.Sleep(each) // in place of work
				if checks.last.Load() >= 0 {
					checks.Served(time.Now())
				}
			}
			assert.True(t, slices.IsSorted(seen))
			assert.Len(t, seen, n)
			return time.Since(begin)
		}
		assert.Equal(t, n*each, took(t.Context()), "without a pace it goes on and on")
		assert.Equal(t, n*each, took(paced), "and so it does without checks")
		checks.Served(time.Now())
		assert.InDelta(t, 2*n*each, took(paced), float64(2*stretch), "beside checks half of the time is a rest")

		for i := range Over(paced, make([]int, n)) {
			if i == 3 {
				break
			}
		}
		begin := time.Now()
		for range Over(paced, make([]int, turns)) {
			time.Sleep(time.Second)
			checks.Served(time.Now())
		}
		assert.Equal(t, turns*time.Second+longest, time.Since(begin), "a rest is short")
	})
}
