package jwt

import (
	"crypto/sha256"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Cache keeps the claims of verified tokens, so that a token is verified once for each check and revision of the keys. It never has
// the tokens themselves, and what it has is looked at anew for whether its time has come or gone. A nil cache keeps nothing.
type Cache struct {
	maxBytes int

	mu    sync.Mutex // guards everything below
	lru   *simplelru.LRU[cacheID, *Token]
	bytes int
	// checks has those of which there are tokens.
	checks map[digest]*verified
}

type digest = [sha256.Size]byte

// cacheID says what was verified, with which keys, and for which check. Another revision of the keys makes other ids: what a
// removed key signed is not found again.
type cacheID struct{ token, keys, check digest }

// verified is what the cache has of one check, whose tokens are all of one revision of the keys.
type verified struct {
	keys   digest
	tokens int
}

// NewCache makes a cache of at most so many tokens, whose payloads have at most so many bytes in all. Decoded, they take a multiple.
func NewCache(entries, bytes int) *Cache {
	c := &Cache{maxBytes: bytes, checks: map[digest]*verified{}}
	// The only error is a size below one.
	c.lru, _ = simplelru.NewLRU(max(entries, 1), c.removed)
	return c
}

// removed keeps the accounts.
func (c *Cache) removed(id cacheID, t *Token) {
	c.bytes -= t.size
	of := c.checks[id.check]
	if of.tokens--; of.tokens == 0 {
		delete(c.checks, id.check)
	}
}

func (c *Cache) get(id cacheID) (*Token, bool) {
	if c == nil {
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Get(id)
}

func (c *Cache) add(id cacheID, t *Token) {
	if c == nil {
		return
	}
	kept := *t
	kept.text, kept.payload, kept.size = "", nil, len(t.payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lru.Contains(id) { // two calls verified it at once
		return
	}
	if of := c.checks[id.check]; of != nil && of.keys != id.keys {
		c.drop(id.check)
	}
	of := c.checks[id.check]
	if of == nil {
		of = &verified{keys: id.keys}
		c.checks[id.check] = of
	}
	of.tokens++
	c.bytes += kept.size
	c.lru.Add(id, &kept)
	for c.bytes > c.maxBytes && c.lru.Len() > 1 {
		c.lru.RemoveOldest()
	}
}

// drop forgets the tokens of a check whose keys are others now: nobody finds them, and they would stay until others push them out.
func (c *Cache) drop(check digest) {
	for _, id := range c.lru.Keys() {
		if id.check == check {
			c.lru.Remove(id)
		}
	}
}
