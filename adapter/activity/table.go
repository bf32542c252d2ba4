package activity

import (
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// table keeps a bounded number of entries, which are looked up in every call and made rarely: readers take no lock.
type table[E interface{ lastUse() int64 }] struct {
	entries atomic.Pointer[map[string]E]
	mu      sync.Mutex // one writer at a time
}

// get returns the entry of a key, which create makes where there is none.
func (t *table[E]) get(key string, create func() E) E {
	if now := t.entries.Load(); now != nil {
		if entry, ok := (*now)[key]; ok {
			return entry
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
	return slices.Collect(maps.Values(*now))
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
