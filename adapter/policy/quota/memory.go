package quota

import (
	"container/heap"
	"context"
	"math"
	"sync"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Memory is a store in the memory of the process. It reads a clock that nobody can set. It is safe for concurrent use.
type Memory struct {
	max   int
	clock func() time.Duration

	mu     sync.Mutex // guards everything below
	counts map[Key]*count
	// of is how many counts each quota has.
	of map[string]int
	// due has every count, that which may have ended first before all others.
	due     counts
	repeats repeats
}

// NewMemory returns a store of at most so many counts at once, of all quotas together.
func NewMemory(most int) *Memory {
	start := time.Now()
	return &Memory{
		max: most, clock: func() time.Duration { return time.Since(start) },
		counts: map[Key]*count{}, of: map[string]int{}, repeats: repeats{known: map[Key]repeat{}},
	}
}

// Counts returns how many counts there are.
func (m *Memory) Counts() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.counts)
}

// Take takes from a count. It fails, as overload, where a further count finds no room.
func (m *Memory) Take(_ context.Context, request Take) (Taken, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock()
	m.forget(now)
	// One that is over may still be there: no call forgets many.
	if r, ok := m.repeats.known[request.Repeat]; ok && r.until > now && request.Repeat != (Key{}) {
		return Taken{Amount: r.amount, Rest: max(r.ends-now, 0)}, nil
	}
	c := m.counts[request.Key]
	if c == nil {
		c = &count{quota: request.Quota, key: request.Key}
	}
	amount := c.take(now, &request)
	taken := Taken{Amount: amount, Rest: c.ends - now}
	if amount == 0 {
		return taken, nil
	}
	if m.counts[request.Key] == nil {
		// What c took is gone with it.
		if err := m.room(now, &request); err != nil {
			return Taken{}, err
		}
		c.due = c.ends
		m.counts[request.Key] = c
		m.of[request.Quota]++
		heap.Push(&m.due, c)
	}
	if request.Repeat != (Key{}) {
		m.repeats.add(request.Repeat, repeat{amount: amount, ends: c.ends, until: now + Remembered})
	}
	return taken, nil
}

// room reports why there is none for a further count.
func (m *Memory) room(now time.Duration, request *Take) error {
	for len(m.counts) >= m.max || m.of[request.Quota] >= request.MaxKeys {
		if !m.forgetOne(now) {
			break
		}
	}
	switch {
	case m.of[request.Quota] >= request.MaxKeys:
		return policy.Fail(config.Overload, "%d combinations of dimensions are counted; raise the quota's max_keys, name fewer dimensions, or use a store", request.MaxKeys)
	case len(m.counts) >= m.max:
		return policy.Fail(config.Overload, "%d counts are in memory; raise limits.quota_counts, or use a store", m.max)
	default:
		return nil
	}
}

// forget drops what has ended: a little in each call, that none has to wait while very many end together.
func (m *Memory) forget(now time.Duration) {
	const atOnce = 16
	for range atOnce {
		if !m.forgetOne(now) {
			break
		}
	}
	m.repeats.forget(now)
}

// forgetOne drops the count that is due, or finds that it goes on. It returns false where none is due.
func (m *Memory) forgetOne(now time.Duration) bool {
	if len(m.due) == 0 || m.due[0].due > now {
		return false
	}
	c := m.due[0]
	if c.ends > now {
		c.due = c.ends
		heap.Fix(&m.due, 0)
		return true
	}
	heap.Pop(&m.due)
	delete(m.counts, c.key)
	if m.of[c.quota]--; m.of[c.quota] == 0 {
		delete(m.of, c.quota)
	}
	return true
}

// count is what was taken from one limit. The zero value is one that nothing was taken from.
type count struct {
	// used is what was taken in the window; of a token bucket, what is missing in it.
	used float64
	// at is when used was so; of a window, when it began.
	at time.Duration
	// ends is when nothing of it is left.
	ends time.Duration

	quota string
	key   Key
	// due is ends or earlier: when to look whether it has ended.
	due time.Duration
}

// take takes what the limit leaves, and returns how much.
func (c *count) take(now time.Duration, request *Take) int64 {
	limit := request.Limit
	switch {
	case c.ends <= now:
		c.used, c.at = 0, now
	case limit.Refill > 0:
		c.used = max(c.used-float64(now-c.at)/float64(limit.Window)*float64(limit.Refill), 0)
		c.at = now
	}
	left := int64(math.Floor(float64(limit.Amount) - c.used))
	amount := request.Amount
	if amount > left {
		amount = left
		if !request.BestEffort {
			amount = 0
		}
	}
	c.used += float64(amount)
	if limit.Refill > 0 {
		c.ends = now + time.Duration(math.Ceil(c.used/float64(limit.Refill)*float64(limit.Window)))
	} else {
		c.ends = c.at + limit.Window
	}
	return amount
}

// counts is a heap by due.
type counts []*count

func (c counts) Len() int           { return len(c) }
func (c counts) Less(i, j int) bool { return c[i].due < c[j].due }
func (c counts) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }

// Push is for container/heap.
func (c *counts) Push(x any) { *c = append(*c, x.(*count)) } //nolint:errcheck,forcetypeassert // nothing else is pushed

// Pop is for container/heap.
func (c *counts) Pop() any {
	last := len(*c) - 1
	popped := (*c)[last]
	(*c)[last] = nil
	*c = (*c)[:last]
	return popped
}

// maxRepeats bounds what is remembered. Whose grant is forgotten too early takes twice, which is too little for him and never too
// much.
const maxRepeats = 1 << 16

// repeats remembers grants. All are remembered for the same time, so the oldest ends first.
type repeats struct {
	known map[Key]repeat
	order []Key
	// first is where in order the oldest is.
	first int
}

type repeat struct {
	amount int64
	// ends is when the window of the grant ends, until when the grant is forgotten.
	ends, until time.Duration
}

func (r *repeats) add(key Key, grant repeat) {
	if len(r.known) >= maxRepeats {
		r.drop()
	}
	r.known[key] = grant
	r.order = append(r.order, key)
}

func (r *repeats) forget(now time.Duration) {
	const atOnce = 16
	for range atOnce {
		if len(r.known) == 0 || r.known[r.order[r.first]].until > now {
			return
		}
		r.drop()
	}
}

func (r *repeats) drop() {
	delete(r.known, r.order[r.first])
	r.first++
	if r.first > len(r.order)/2 {
		r.order = append(r.order[:0], r.order[r.first:]...)
		r.first = 0
	}
}
