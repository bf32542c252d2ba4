package jwt

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	id := func(i int) cacheID { return cacheID{token: sha256.Sum256([]byte(strconv.Itoa(i)))} }
	entries, bytes := NewCache(10, 1<<20), NewCache(1000, 100)
	for i := range 100 {
		entries.add(id(i), &Token{payload: make([]byte, 10)})
		bytes.add(id(i), &Token{payload: make([]byte, 30)})
		bytes.add(id(i), &Token{payload: make([]byte, 30)})
		require.LessOrEqual(t, entries.lru.Len(), 10)
		require.LessOrEqual(t, bytes.bytes, 100)
		require.Equal(t, 30*bytes.lru.Len(), bytes.bytes)
	}
	assert.Equal(t, 10, entries.lru.Len())
	assert.Equal(t, 3, bytes.lru.Len())
	_, ok := entries.get(id(99))
	assert.True(t, ok)
	_, ok = entries.get(id(1))
	assert.False(t, ok)

	bytes.add(id(1000), &Token{payload: make([]byte, 1000)})
	assert.Equal(t, 1, bytes.lru.Len(), "one that is too large by itself is kept alone")

	var none *Cache
	none.add(id(1), &Token{})
	_, ok = none.get(id(1))
	assert.False(t, ok)
}

// When keys change, what was verified with those before goes; what other checks have stays.
func TestCacheFollowsKeys(t *testing.T) {
	t.Parallel()
	c := NewCache(10, 1<<20)
	id := func(check, keys, token byte) cacheID {
		return cacheID{check: digest{check}, keys: digest{keys}, token: digest{token}}
	}
	for token := range byte(4) {
		c.add(id(1, 1, token), &Token{payload: make([]byte, 10)})
		c.add(id(2, 1, token), &Token{payload: make([]byte, 10)})
	}
	require.Equal(t, map[digest]*verified{{1}: {digest{1}, 4}, {2}: {digest{1}, 4}}, c.checks)
	c.add(id(1, 2, 0), &Token{payload: make([]byte, 30)})
	assert.Equal(t, map[digest]*verified{{1}: {digest{2}, 1}, {2}: {digest{1}, 4}}, c.checks)
	assert.Equal(t, 5, c.lru.Len())
	assert.Equal(t, 70, c.bytes)
	for token := range byte(20) {
		c.add(id(3, 1, token), &Token{})
	}
	assert.Equal(t, map[digest]*verified{{3}: {digest{1}, 10}}, c.checks, "those without tokens are not kept")
}

// No part of what is kept holds the token, nor enough of it to put it together again.
func TestCacheHasNoTokens(t *testing.T) {
	t.Parallel()
	c := NewCache(10, 1<<20)
	payload := []byte(`{"sub":"alice","iss":"i","aud":["a"]}`)
	text := "head." + encoding.EncodeToString(payload) + ".planted-signature"
	t1 := &Token{text: text, payload: payload, Algorithm: "ES256"}
	var err error
	t1.Claims, err = decodeObject(payload)
	require.NoError(t, err)
	require.NoError(t, t1.readClaims())
	c.add(cacheID{}, t1)
	kept, ok := c.get(cacheID{})
	require.True(t, ok)
	assert.Equal(t, "alice", kept.Claims["sub"])
	assert.Empty(t, kept.payload)
	all := fmt.Sprintf("%+v", reflect.ValueOf(kept).Elem())
	assert.NotContains(t, all, "planted")
	assert.NotContains(t, all, strings.Split(text, ".")[1])
}
