package activity

import (
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// table keeps a bounded number of entries, which are looked up in every call and made rarely: readers take no lock.
type table[E interface{ lastUse() int64 }] struct {
	entries atomic.Pointer[map[string]E]
	// others stands for those that there is no room for.
	others E
	// quiet is until when a table that is full stays as it is, in Unix nanoseconds.
	quiet atomic.Int64
	mu    sync.Mutex // one writer at a time
}

// replaceEvery is how often an entry takes the place of another. Where more are in use than there is room for, nearly every call would
// replace one.
const replaceEvery = 100 * time.Millisecond

// get returns the entry of a key, which create makes where there is none: others, where none can be made now.
func (t *table[E]) get(key string, create func() E) E {
	if now := t.entries.Load(); now != nil {
		if entry, ok := (*now)[key]; ok {
			return entry
		}
		if len(*now) >= maxHandlers && time.Now().UnixNano() < t.quiet.Load() {
			return t.others
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[string]E{}
	if now := t.entries.Load(); now != nil {
		if entry, ok := (*now)[key]; ok {
			return entry
		}
		next = maps.Clone(*now)
	}
	if len(next) >= maxHandlers {
		now := time.Now()
		if now.UnixNano() < t.quiet.Load() { // while this call waited for the lock
			return t.others
		}
		t.quiet.Store(now.Add(replaceEvery).UnixNano())
		delete(next, oldest(next))
	}
	entry := create()
	next[strings.Clone(key)] = entry
	t.entries.Store(&next)
	return entry
}

func (t *table[E]) all() []E {
	now := t.entries.Load()
	if now == nil {
		return nil
	}
	all := slices.Collect(maps.Values(*now))
	if t.others.lastUse() != 0 {
		all = append(all, t.others)
	}
	return all
}

// oldest returns the key of the entry that was not used for the longest time.
func oldest[E interface{ lastUse() int64 }](entries map[string]E) (key string) {
	used := int64(math.MaxInt64)
	for k, entry := range entries {
		if last := entry.lastUse(); last <= used {
			key, used = k, last
		}
	}
	return key
}
