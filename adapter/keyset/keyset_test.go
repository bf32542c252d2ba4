package keyset_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/keyset"
	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// document is a JWK Set of so many keys.
func document(keys int) []byte {
	var all []string
	for i := range keys {
		seed := bytes.Repeat([]byte{byte(i + 1)}, ed25519.SeedSize)
		public, _ := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
		all = append(all, fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":"k%d","x":%q}`, i, base64.RawURLEncoding.EncodeToString(public)))
	}
	return []byte(`{"keys":[` + strings.Join(all, ",") + `]}`)
}

func newLogger(t *testing.T) *slog.Logger {
	t.Helper()
	written := &logtest.Buffer{}
	t.Cleanup(func() { assert.NotContains(t, written.String(), "planted") })
	return slog.New(slog.NewTextHandler(written, nil))
}

// bounds are as settings have them.
var bounds = follow.Source{Refresh: 5 * time.Minute, MinRefresh: 10 * time.Second, MaxStale: time.Hour, Timeout: 5 * time.Second}

func at(url string) keyset.Source {
	s := keyset.Source{From: bounds}
	s.From.URL = url
	return s
}

func fromFile(path string) keyset.Source {
	s := keyset.Source{From: bounds}
	s.From.File = path
	return s
}

func requireKeys(t *testing.T, s *keyset.Set, want int) {
	t.Helper()
	keys, err := s.Keys()
	require.NoError(t, err)
	require.Equal(t, want, keys.Len())
}

func open(t *testing.T, sources map[string]keyset.Source) *keyset.Store {
	t.Helper()
	return keyset.Open(t.Context(), sources, newLogger(t))
}

// run follows the key sets until the test ends.
func run(t *testing.T, store *keyset.Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
}

// What is no key set is none, however it is called, and leaves the good keys as they are.
func TestDocuments(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys")
	for name, c := range map[string]struct{ document, problem string }{
		"garbage":       {"<html>planted</html>", "it is no JWK Set; it must be a JSON object with an array of keys"},
		"nothing":       {"", "it is no JWK Set; it must be a JSON object with an array of keys"},
		"cut off":       {string(document(2)[:50]), "it is no JWK Set; it must be a JSON object with an array of keys"},
		"one key":       {`{"kty":"oct","k":"planted"}`, "it is no JWK Set; it must be a JSON object with an array of keys"},
		"too many keys": {`{"keys":[` + strings.Repeat("{},", 100) + `{}]}`, "it has 101 keys; use at most 100"},
		"huge":          {`{"fill":"` + strings.Repeat("x", 1<<20) + `","keys":[]}`, "it has more than 1048576 bytes"},
	} {
		write(t, path, []byte(c.document))
		set, _ := open(t, map[string]keyset.Source{"a": fromFile(path)}).Set("a")
		_, err := set.Keys()
		require.EqualError(t, err, "it could not be loaded: "+c.problem, name)
		require.NotErrorIs(t, err, jwt.ErrNotLoaded, "it was tried")
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "application/jwk-set+json, application/json", r.Header.Get("Accept"))
		_, _ = w.Write(document(1))
	}))
	t.Cleanup(server.Close)
	store := open(t, map[string]keyset.Source{"a": at(server.URL)})
	set, _ := store.Set("a")
	_, err := set.Keys()
	require.ErrorIs(t, err, jwt.ErrNotLoaded)
	run(t, store)
	require.Eventually(t, func() bool { _, err := set.Keys(); return err == nil }, patience, time.Millisecond)
	requireKeys(t, set, 1)
}

// patience is how long a change may take to show. It takes milliseconds; a machine under load may need more.
const patience = 2 * time.Minute

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", content, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// Files are there from the start, and followed: replaced, linked anew as in a ConfigMap, broken and gone.
func TestFiles(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	plain, linked := filepath.Join(directory, "plain"), filepath.Join(directory, "linked")
	write(t, plain, document(1))
	mount := func(version string, keys int) {
		t.Helper()
		require.NoError(t, os.Mkdir(filepath.Join(directory, version), 0o700))
		write(t, filepath.Join(directory, version, "linked"), document(keys))
		require.NoError(t, os.Symlink(version, filepath.Join(directory, "..tmp")))
		require.NoError(t, os.Rename(filepath.Join(directory, "..tmp"), filepath.Join(directory, "..data")))
	}
	mount("..1", 2)
	require.NoError(t, os.Symlink("..data/linked", linked))

	store := open(t, map[string]keyset.Source{
		"plain": fromFile(plain), "linked": fromFile(linked), "missing": fromFile(filepath.Join(directory, "missing")), "directory": fromFile(directory),
		"away": fromFile(filepath.Join(directory, "no", "where")),
	})
	set := func(name string) *keyset.Set { s, ok := store.Set(name); require.True(t, ok); return s }
	_, ok := store.Set("unknown")
	assert.False(t, ok)
	requireKeys(t, set("plain"), 1)
	requireKeys(t, set("linked"), 2)
	for name, problem := range map[string]string{"missing": "no such file", "directory": "is no regular file", "away": "no such file"} {
		_, err := set(name).Keys()
		require.ErrorContains(t, err, "it could not be loaded: ")
		require.ErrorContains(t, err, problem)
	}

	run(t, store)
	eventually := func(name string, want int) {
		t.Helper()
		require.Eventually(t, func() bool {
			keys, err := set(name).Keys()
			return err == nil && keys.Len() == want
		}, patience, 5*time.Millisecond)
	}
	write(t, plain, document(3))
	eventually("plain", 3)
	write(t, filepath.Join(directory, "missing"), document(4))
	eventually("missing", 4)
	mount("..2", 5)
	eventually("linked", 5)
	failed := store.Stats()["plain"].Failed
	write(t, plain, []byte("{"))
	require.Eventually(t, func() bool { return store.Stats()["plain"].Failed > failed }, patience, 5*time.Millisecond)
	requireKeys(t, set("plain"), 3)
	require.NoError(t, os.Remove(plain))
	requireKeys(t, set("plain"), 3)
	write(t, plain, document(0))
	eventually("plain", 0)

	stats := store.Stats()
	assert.Len(t, stats, 5)
	assert.Equal(t, 5, stats["linked"].Size)
	assert.True(t, stats["linked"].Loaded)
	assert.Positive(t, stats["linked"].Read)
	assert.False(t, stats["directory"].Loaded)
	assert.Positive(t, stats["directory"].Failed)
}

func TestSymmetric(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys")
	write(t, path, []byte(`{"keys":[{"kty":"oct","kid":"a","k":"`+strings.Repeat("A", 86)+`"}]}`))
	s := fromFile(path)
	s.Symmetric = true
	store := open(t, map[string]keyset.Source{"own": s})
	own, _ := store.Set("own")
	assert.True(t, own.Symmetric())
	requireKeys(t, own, 1)
}

// Many want keys and read them while they change and while figures are taken.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(document(1 + int(asked.Add(1)%2)))
	}))
	t.Cleanup(server.Close)
	source := at(server.URL)
	source.From.MinRefresh = time.Millisecond
	store := open(t, map[string]keyset.Source{"a": source, "b": source})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				set, _ := store.Set("a")
				set.Want()
				if keys, err := set.Keys(); err == nil {
					assert.Positive(t, keys.Len())
				}
				store.Stats()
			}
		})
	}
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()
	require.Eventually(t, func() bool { return store.Stats()["a"].Read > 20 }, patience, time.Millisecond)
	cancel()
	all.Wait()
	assert.NoError(t, <-done)
}
