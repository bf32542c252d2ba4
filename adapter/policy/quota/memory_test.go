package quota

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

func numbered(n int) (k Key) {
	binary.BigEndian.PutUint64(k[:], uint64(n)+1)
	return k
}

// taker takes from one store in a synctest bubble, whose time is exact.
type taker struct {
	*testing.T
	store *Memory
	limit config.QuotaLimit
	key   Key
	keys  int
}

func newTaker(t *testing.T, amount int64, window time.Duration, refill int64) *taker {
	t.Helper()
	return &taker{T: t, store: NewMemory(1000), limit: config.QuotaLimit{Amount: amount, Window: window, Refill: refill}, keys: 1000}
}

func (t *taker) request(amount int64, bestEffort bool) Take {
	return Take{Key: t.key, Amount: amount, BestEffort: bestEffort, Limit: t.limit, Quota: "q", MaxKeys: t.keys}
}

func (t *taker) take(request Take) Taken {
	t.Helper()
	taken, err := t.store.Take(t.Context(), request)
	require.NoError(t, err)
	return taken
}

func (t *taker) all(amount int64) int64 { t.Helper(); return t.take(t.request(amount, false)).Amount }

func (t *taker) atMost(amount int64) int64 { t.Helper(); return t.take(t.request(amount, true)).Amount }

func (t *taker) rest(amount int64) time.Duration {
	t.Helper()
	return t.take(t.request(amount, true)).Rest
}

func TestFixedWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTaker(t, 10, time.Minute, 0)
		assert.EqualValues(t, 0, q.all(11), "all or nothing")
		assert.EqualValues(t, 4, q.all(4))
		time.Sleep(59 * time.Second)
		assert.EqualValues(t, 0, q.all(7))
		assert.EqualValues(t, 5, q.all(5))
		assert.EqualValues(t, 1, q.atMost(7))
		assert.EqualValues(t, 0, q.atMost(1))
		assert.Equal(t, time.Second, q.rest(1), "as long as the window goes on")
		time.Sleep(time.Second - 1)
		assert.EqualValues(t, 0, q.all(1))
		time.Sleep(time.Nanosecond)
		assert.EqualValues(t, 10, q.atMost(math.MaxInt64), "a new window")
		assert.Equal(t, time.Minute, q.rest(1))
		assert.EqualValues(t, 0, q.all(1))
		// The next window begins with the next grant.
		time.Sleep(90 * time.Second)
		assert.EqualValues(t, 1, q.all(1))
		time.Sleep(45 * time.Second)
		assert.EqualValues(t, 9, q.atMost(10))
		q.key = numbered(2)
		assert.EqualValues(t, 10, q.atMost(10), "another count")
	})
}

func TestTokenBucket(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTaker(t, 10, time.Minute, 6) // one in 10 s
		assert.EqualValues(t, 0, q.all(11))
		assert.EqualValues(t, 10, q.atMost(11))
		assert.EqualValues(t, 0, q.atMost(1))
		time.Sleep(10*time.Second - 1)
		assert.EqualValues(t, 0, q.atMost(1))
		time.Sleep(2 * time.Nanosecond)
		assert.EqualValues(t, 0, q.all(2))
		assert.EqualValues(t, 1, q.atMost(2))
		assert.EqualValues(t, 0, q.atMost(1))
		time.Sleep(35 * time.Second)
		assert.EqualValues(t, 3, q.atMost(10))
		time.Sleep(5*time.Second + 10)
		assert.EqualValues(t, 1, q.atMost(10), "halves add up")
		time.Sleep(time.Hour)
		assert.EqualValues(t, 10, q.atMost(100), "no more than a bucket")
	})
}

func TestRepeatsTakeNothing(t *testing.T) {
	t.Parallel()
	for name, refill := range map[string]int64{"window": 0, "bucket": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := newTaker(t, 10, 5*time.Second, refill)
				call := func(id int, amount int64) Taken {
					request := q.request(amount, true)
					request.Repeat = numbered(id)
					return q.take(request)
				}
				first := call(1, 8)
				assert.EqualValues(t, 8, first.Amount)
				assert.Equal(t, first, call(1, 8))
				assert.EqualValues(t, 2, call(2, 8).Amount)
				assert.EqualValues(t, 2, call(2, 8).Amount)
				assert.EqualValues(t, 0, call(3, 8).Amount)
				time.Sleep(5 * time.Second)
				// The grant is the same, and its window is over.
				again := call(1, 8)
				assert.EqualValues(t, 8, again.Amount)
				if refill == 0 {
					assert.Zero(t, again.Rest)
				}
				assert.Positive(t, call(3, 8).Amount, "what was refused is no grant to repeat")
				time.Sleep(5 * time.Second)
				assert.Less(t, call(1, 8).Amount, int64(8+1))
				assert.Empty(t, q.store.repeats.known[numbered(2)].amount, "forgotten after its time")
			})
		})
	}
}

// Very many grants end together, and a call forgets but a few: what it has not come to is over all the same.
func TestOldGrantsAreNotRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTaker(t, 1000, 24*time.Hour, 0)
		call := func(id int) int64 {
			request := q.request(1, false)
			request.Repeat = numbered(id)
			return q.take(request).Amount
		}
		for i := range 1000 {
			require.EqualValues(t, 1, call(i))
		}
		time.Sleep(Remembered)
		assert.EqualValues(t, 0, call(999), "nothing is left, and the grant is of another time")

		time.Sleep(24 * time.Hour)
		for i := range 1000 {
			require.EqualValues(t, 1, call(i), i)
			require.EqualValues(t, 1, call(i), i)
		}
		assert.EqualValues(t, 0, call(1000), "each was counted once")
		assert.LessOrEqual(t, len(q.store.repeats.order), 2*1000+2)
	})
}

func TestRepeatsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTaker(t, 1<<40, time.Hour, 0)
		const more = 1000
		for i := range maxRepeats + more {
			request := q.request(1, true)
			request.Repeat = numbered(i)
			q.take(request)
		}
		assert.Len(t, q.store.repeats.known, maxRepeats)
		assert.LessOrEqual(t, len(q.store.repeats.order), 2*maxRepeats+2)
		assert.NotContains(t, q.store.repeats.known, numbered(more-1), "the oldest go first")
		assert.Contains(t, q.store.repeats.known, numbered(more))
		time.Sleep(Remembered)
		for range maxRepeats/16 + 1 {
			q.all(1)
		}
		assert.Empty(t, q.store.repeats.known)
		assert.Empty(t, q.store.repeats.order)
	})
}

// A store that is full fails, and has room again when counts have ended.
func TestCountsAreBounded(t *testing.T) {
	t.Parallel()
	for name, refill := range map[string]int64{"window": 0, "bucket": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := newTaker(t, 5, time.Minute, refill)
				q.store = NewMemory(30)
				q.keys = 20
				overload := func(text string) {
					t.Helper()
					_, err := q.store.Take(t.Context(), q.request(1, true))
					var failure *policy.Failure
					require.ErrorAs(t, err, &failure)
					assert.Equal(t, config.Overload, failure.Class)
					assert.Contains(t, failure.Detail, text)
				}
				for i := range 20 {
					q.key = numbered(i)
					assert.EqualValues(t, 5, q.all(5))
				}
				q.key = numbered(20)
				overload("20 combinations of dimensions are counted; raise the quota's max_keys")
				assert.EqualValues(t, 0, q.all(6), "to be denied needs no room")
				q.key = numbered(3)
				assert.EqualValues(t, 0, q.all(1), "those counted go on")
				other := q.request(1, true)
				other.Quota = "another"
				for i := range 10 {
					other.Key = numbered(100 + i)
					assert.EqualValues(t, 1, q.take(other).Amount, "another quota has its own room")
				}
				other.Key = numbered(200)
				_, err := q.store.Take(t.Context(), other)
				require.ErrorContains(t, err, "30 counts are in memory; raise limits.quota_counts")
				assert.Equal(t, 30, q.store.Counts())

				time.Sleep(time.Minute)
				q.key = numbered(20)
				assert.EqualValues(t, 5, q.all(5))
				for i := range 10 {
					q.key = numbered(1000 + i)
					q.all(1)
				}
				assert.Equal(t, 11, q.store.Counts(), "what has ended is forgotten")
				assert.Len(t, q.store.due, 11)
				assert.Equal(t, map[string]int{"q": 11}, q.store.of)
			})
		})
	}
}

// A quota finds its own counts ended also where many of others ended before.
func TestRoomIsMadeAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newTaker(t, 5, time.Minute, 0)
		q.keys = 20
		for i := range 100 {
			request := q.request(1, true)
			request.Key, request.Quota = numbered(i), "another"
			request.MaxKeys = 100
			q.take(request)
		}
		time.Sleep(time.Nanosecond)
		for i := range 20 {
			q.key = numbered(1000 + i)
			q.all(1)
		}
		time.Sleep(time.Minute)
		q.key = numbered(2000)
		assert.EqualValues(t, 1, q.all(1))
	})
}

// However calls come, no window and no bucket ever gives more than it has.
func TestNeverMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	for name, refill := range map[string]int64{"window": 0, "bucket": 7} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(1, 2))
				const amount = 20
				q := newTaker(t, amount, time.Second, refill)
				type grant struct {
					at     time.Time
					amount int64
				}
				grants := map[int][]grant{}
				for range 20_000 {
					time.Sleep(time.Duration(random.Int64N(int64(80 * time.Millisecond))))
					n := random.IntN(3)
					q.key = numbered(n)
					if got := q.take(q.request(random.Int64N(25)+1, random.IntN(2) == 0)).Amount; got > 0 {
						grants[n] = append(grants[n], grant{time.Now(), got})
					}
				}
				require.Len(t, grants, 3)
				for _, all := range grants {
					for i := range all {
						// Of any span of time from one grant to another: of windows, those that it touches; of a bucket, what it began with and what came back.
						sum := int64(0)
						for j := i; j < min(i+40, len(all)); j++ {
							sum += all[j].amount
							span := all[j].at.Sub(all[i].at)
							most := float64(amount) * (math.Floor(span.Seconds()) + 2)
							if refill > 0 {
								most = amount + span.Seconds()*float64(refill) + 1e-6
							}
							require.LessOrEqual(t, float64(sum), most, "%s", span)
						}
					}
				}
			})
		})
	}
}

func TestConcurrentTakersShareTheLimit(t *testing.T) {
	t.Parallel()
	q := newTaker(t, 1000, time.Hour, 0)
	const takers = 16
	var sums [takers]int64
	var group sync.WaitGroup
	for i := range takers {
		group.Go(func() {
			for range 200 {
				taken, err := q.store.Take(t.Context(), q.request(3, true))
				if err == nil {
					sums[i] += taken.Amount
				}
			}
		})
	}
	group.Wait()
	total := int64(0)
	for _, sum := range sums {
		total += sum
	}
	assert.EqualValues(t, 1000, total)
}
