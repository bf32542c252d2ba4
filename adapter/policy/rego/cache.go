package rego

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
)

// Cache bounds what the checks of a process remember, in bytes. Each check has an answers of its own for each program, which knows the
// requests to that program alone: what an evaluation of an older policy comes to, however late, is of no use to the one that took its place.
type Cache struct {
	maxBytes, maxHandlerBytes int

	hits, misses, evictions atomic.Uint64

	mu    sync.Mutex                         // guards everything below; taken before an answers' own
	ofAll *simplelru.LRU[*answers, struct{}] // those that have any, by when they last took one in
	bytes int                                // of all
}

// NewCache makes a cache of at most so many bytes in all, and so many for one handler. It is nil, which remembers nothing, where either
// is not positive.
func NewCache(bytes, handlerBytes int) *Cache {
	if bytes <= 0 || handlerBytes <= 0 {
		return nil
	}
	c := &Cache{maxBytes: bytes, maxHandlerBytes: min(bytes, handlerBytes)}
	// Its size is bounded by the bytes. The only error is a size below one.
	c.ofAll, _ = simplelru.NewLRU[*answers, struct{}](bytes, nil)
	return c
}

// CacheStats are counts since the start, and of what there is now.
type CacheStats struct {
	// Hits are requests that were answered from memory, Misses those that could have been. Evictions made room.
	Hits, Misses, Evictions uint64
	// Entries are the answers there are now, Bytes those of keys and answers with what it takes to keep them, estimated.
	Entries, Bytes int
}

// Stats returns the counts. A nil cache has none.
func (c *Cache) Stats() CacheStats {
	if c == nil {
		return CacheStats{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	stats := CacheStats{Hits: c.hits.Load(), Misses: c.misses.Load(), Evictions: c.evictions.Load(), Bytes: c.bytes}
	for _, a := range c.ofAll.Keys() {
		a.mu.Lock()
		stats.Entries += a.lru.Len()
		a.mu.Unlock()
	}
	return stats
}

// answers is what one check answered to which requests.
type answers struct {
	cache *Cache

	mu    sync.Mutex // guards everything below
	lru   *simplelru.LRU[string, policy.Verdict]
	bytes int
}

func (c *Cache) newAnswers() *answers {
	a := &answers{cache: c}
	a.lru, _ = simplelru.NewLRU(c.maxHandlerBytes, func(key string, v policy.Verdict) { a.bytes -= size(key, v) })
	return a
}

// memory is what one check by one program remembers. It is forgotten when nobody holds the memory any more.
type memory struct {
	*answers
	// of is weak: a handler that nobody asks must not keep a program that was replaced, with its data.
	of weak.Pointer[program]
}

// newMemory makes the memory of a check; nil where nothing is to be remembered.
func (c *Cache) newMemory(of *program) *memory {
	if c == nil || !of.analysis.Rememberable() {
		return nil
	}
	m := &memory{answers: c.newAnswers(), of: weak.Make(of)}
	runtime.AddCleanup(m, (*answers).forget, m.answers)
	return m
}

// get returns the answer to a request with the key.
func (a *answers) get(key string) (policy.Verdict, bool) {
	a.mu.Lock()
	v, ok := a.lru.Get(key)
	a.mu.Unlock()
	if ok {
		a.cache.hits.Add(1)
	} else {
		a.cache.misses.Add(1)
	}
	return v, ok
}

// add remembers an answer. The key must own its memory.
func (a *answers) add(key string, v policy.Verdict) {
	c := a.cache
	v = owned(v)
	if size(key, v) > c.maxHandlerBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += a.change(func() {
		if a.lru.Contains(key) { // two calls evaluated it at once
			return
		}
		a.lru.Add(key, v)
		a.bytes += size(key, v)
		for a.bytes > c.maxHandlerBytes {
			a.evict()
		}
	})
	c.ofAll.Add(a, struct{}{})
	for c.bytes > c.maxBytes {
		// Those of a policy that was replaced take nothing in any more, so they are the first to go.
		oldest, _, _ := c.ofAll.GetOldest()
		c.bytes += oldest.change(oldest.evict)
		if oldest.bytes == 0 {
			c.ofAll.Remove(oldest)
		}
	}
}

// change makes a change and returns by how many bytes there are more.
func (a *answers) change(change func()) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.bytes
	change()
	return a.bytes - before
}

func (a *answers) evict() {
	a.lru.RemoveOldest()
	a.cache.evictions.Add(1)
}

// forget gives the memory back when the check is gone.
func (a *answers) forget() {
	c := a.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += a.change(a.lru.Purge)
	c.ofAll.Remove(a)
}

// owned returns the verdict with texts of its own: a policy may have taken them from the request, which is a part of the whole call.
func owned(v policy.Verdict) policy.Verdict {
	v.Reason = strings.Clone(v.Reason)
	if v.Denial == nil {
		return v
	}
	denial := *v.Denial
	denial.Message = strings.Clone(denial.Message)
	if denial.HTTP != nil {
		response := *denial.HTTP
		response.Body = strings.Clone(response.Body)
		response.Headers = make(map[string]string, len(denial.HTTP.Headers))
		for name, text := range denial.HTTP.Headers {
			response.Headers[strings.Clone(name)] = strings.Clone(text)
		}
		denial.HTTP = &response
	}
	v.Denial = &denial
	return v
}

// size estimates the memory of an answer: the key, the texts, and what the list, the map and the verdict take.
func size(key string, v policy.Verdict) int {
	const overhead = 400
	n := overhead + len(key) + len(v.Reason)
	if d := v.Denial; d != nil {
		n += overhead + len(d.Message)
		if d.HTTP != nil {
			n += len(d.HTTP.Body)
			for name, text := range d.HTTP.Headers {
				n += overhead/4 + len(name) + len(text)
			}
		}
	}
	return n
}
