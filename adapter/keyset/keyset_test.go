package keyset

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/pem"
	"errors"
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
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

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

// log is a logger's output.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newLogger(t *testing.T) *slog.Logger {
	t.Helper()
	written := &log{}
	t.Cleanup(func() { assert.NotContains(t, written.String(), "planted") })
	return slog.New(slog.NewTextHandler(written, nil))
}

// fast is a source with bounds as settings have them.
var fast = Source{Refresh: 5 * time.Minute, MinRefresh: 10 * time.Second, MaxStale: time.Hour, Timeout: 5 * time.Second}

func at(url string) Source {
	s := fast
	s.URL = url
	return s
}

func requireKeys(t *testing.T, s *Set, want int) {
	t.Helper()
	keys, err := s.Keys()
	require.NoError(t, err)
	require.Equal(t, want, keys.Len())
}

// served is a source whose answers a test changes, in a bubble of its own time.
type served struct {
	mu    sync.Mutex
	keys  int
	err   error
	after time.Duration
	asked []time.Time
}

func (s *served) answer(keys int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.err = keys, err
}

func (s *served) load(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	s.asked = append(s.asked, time.Now())
	keys, err, after := s.keys, s.err, s.after
	s.mu.Unlock()
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return document(keys), err
}

func (s *served) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// inBubble runs a set beside a test for as long as that takes.
func inBubble(t *testing.T, source *served, test func(t *testing.T, s *Set)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		set := newSet(at("https://unused"), newLogger(t))
		set.load = source.load
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			set.run(ctx)
		}()
		test(t, set)
		cancel()
		<-done
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	source := &served{keys: 1, after: time.Second}
	inBubble(t, source, func(t *testing.T, s *Set) {
		_, err := s.Keys()
		require.ErrorIs(t, err, jwt.ErrNotLoaded)
		pass(time.Second)
		requireKeys(t, s, 1)
		first, _ := s.Keys()

		source.answer(2, nil)
		pass(4 * time.Minute)
		requireKeys(t, s, 1)
		pass(time.Minute)
		requireKeys(t, s, 2)
		second, _ := s.Keys()
		assert.False(t, second.Equal(first))
		pass(5 * time.Minute)
		third, _ := s.Keys()
		assert.Same(t, second, third, "the same document is the same revision")
		source.answer(0, nil)
		pass(5 * time.Minute)
		requireKeys(t, s, 0)
	})
}

// However many tokens name unknown keys, the source is asked no more often than it may be, and soon after the first.
func TestFloodOfUnknownKeys(t *testing.T) {
	t.Parallel()
	source := &served{keys: 1}
	inBubble(t, source, func(t *testing.T, s *Set) {
		pass(time.Minute)
		require.Equal(t, 1, source.times())
		source.answer(2, nil)
		s.Want()
		synctest.Wait()
		requireKeys(t, s, 2)
		require.Equal(t, 2, source.times(), "the last time is long ago, so it is asked at once")
		for range 10 * 60 * 10 { // ten minutes
			for range 100 {
				s.Want()
			}
			pass(100 * time.Millisecond)
		}
		assert.InDelta(t, 2+10*6, source.times(), 1)
		for i := 2; i < len(source.asked); i++ {
			assert.GreaterOrEqual(t, source.asked[i].Sub(source.asked[i-1]), 10*time.Second)
		}
		before := source.times()
		pass(20 * time.Second)
		assert.LessOrEqual(t, source.times(), before+1, "and no more when it is over")
	})
}

// The last good keys count while the source is away, for as long as they may; then checks cannot tell.
func TestAway(t *testing.T) {
	t.Parallel()
	source := &served{keys: 1}
	inBubble(t, source, func(t *testing.T, s *Set) {
		pass(time.Second)
		source.answer(0, errors.New("it is down"))
		pass(55 * time.Minute)
		requireKeys(t, s, 1)
		pass(10 * time.Minute)
		_, err := s.Keys()
		require.EqualError(t, err, "the keys could not be refreshed for 1h0m0s: it is down")
		require.NotErrorIs(t, err, jwt.ErrNotLoaded)
		source.answer(2, nil)
		pass(5 * time.Minute)
		requireKeys(t, s, 2)
	})
}

// A source that is away is asked again sooner at first, then as seldom as one that is there.
func TestPausesAfterFailures(t *testing.T) {
	t.Parallel()
	source := &served{err: errors.New("it is down")}
	inBubble(t, source, func(t *testing.T, s *Set) {
		synctest.Wait()
		_, err := s.Keys()
		require.EqualError(t, err, "the keys could not be loaded: it is down")
		require.NotErrorIs(t, err, jwt.ErrNotLoaded, "it was tried")
		pass(time.Hour)
		want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute}
		for i, longest := range want {
			pause := source.asked[i+1].Sub(source.asked[i])
			assert.LessOrEqual(t, pause, longest)
			assert.GreaterOrEqual(t, pause, longest*9/10)
		}
	})
}

// A source that never answers is given up on after the time-out, and asked again.
func TestHanging(t *testing.T) {
	t.Parallel()
	source := &served{keys: 1, after: time.Hour}
	inBubble(t, source, func(t *testing.T, s *Set) {
		pass(4 * time.Second)
		_, err := s.Keys()
		require.ErrorIs(t, err, jwt.ErrNotLoaded)
		pass(time.Second)
		_, err = s.Keys()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		source.mu.Lock()
		source.after = 0
		source.mu.Unlock()
		pass(10 * time.Second)
		requireKeys(t, s, 1)
	})
}

func TestPanicsAreErrors(t *testing.T) {
	t.Parallel()
	s := newSet(at("https://unused"), newLogger(t))
	s.load = func(context.Context) ([]byte, error) { panic("planted") }
	assert.False(t, s.refresh(t.Context()))
	_, err := s.Keys()
	require.ErrorContains(t, err, "reading it panicked: string")
}

// What servers answer, and what comes of it when there were good keys before.
func TestFetch(t *testing.T) {
	t.Parallel()
	var answer atomic.Pointer[http.HandlerFunc]
	reply := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	hold := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*answer.Load())(w, r) }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(hold) })

	source := at(server.URL + "/keys?secret=planted")
	source.Timeout = 200 * time.Millisecond
	good := source
	good.Timeout = time.Minute
	hang := func(http.ResponseWriter, *http.Request) { <-hold }
	for _, c := range []struct {
		name    string
		answer  http.HandlerFunc
		problem string
	}{
		{"500", reply(500, "planted"), "it answers with HTTP status 500"},
		{"404", reply(404, ""), "it answers with HTTP status 404"},
		{"204", reply(204, ""), "it answers with HTTP status 204"},
		{"garbage", reply(200, "<html>planted</html>"), "it is no JWK Set; it must be a JSON object with an array of keys"},
		{"nothing", reply(200, ""), "it is no JWK Set; it must be a JSON object with an array of keys"},
		{"cut off", reply(200, string(document(2)[:50])), "it is no JWK Set; it must be a JSON object with an array of keys"},
		{"one key", reply(200, `{"kty":"oct","k":"planted"}`), "it is no JWK Set; it must be a JSON object with an array of keys"},
		{"too many keys", reply(200, `{"keys":[`+strings.Repeat("{},", 100)+`{}]}`), "it has 101 keys; use at most 100"},
		{"huge", reply(200, `{"fill":"`+strings.Repeat("x", 1<<20)+`","keys":[]}`), "it has more than 1048576 bytes"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, "it has more than 1048576 bytes"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/planted", http.StatusFound) }, "it answers with a redirect; write the address that it leads to"},
		{"hang", hang, "context deadline exceeded"},
		{"hang within", func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(`{"keys":`))
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		}, "context deadline exceeded"},
		{"cut the connection", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSet(good, newLogger(t))
			ok := reply(200, string(document(2)))
			answer.Store(&ok)
			require.True(t, s.refresh(t.Context()))
			requireKeys(t, s, 2)
			if strings.HasPrefix(c.problem, "context") {
				s = newSet(source, newLogger(t))
				s.state.Store(&state{keys: must(jwt.ParseKeys(document(2), false)), read: time.Now()})
			}
			answer.Store(&c.answer)
			require.False(t, s.refresh(t.Context()))
			requireKeys(t, s, 2)
			require.EqualError(t, s.state.Load().err, c.problem)

			empty := newSet(source, newLogger(t))
			if !strings.HasPrefix(c.problem, "context") {
				empty = newSet(good, newLogger(t))
			}
			require.False(t, empty.refresh(t.Context()))
			_, err := empty.Keys()
			require.EqualError(t, err, "the keys could not be loaded: "+c.problem)
		})
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// The server of a URL is verified, with the given authority's certificate where one is given, read each time.
func TestTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "application/jwk-set+json, application/json", r.Header.Get("Accept"))
		_, _ = w.Write(document(1))
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")

	s := newSet(at(server.URL), newLogger(t))
	require.False(t, s.refresh(t.Context()))
	require.ErrorContains(t, s.state.Load().err, "certificate signed by unknown authority")

	own := at(server.URL)
	own.CA = ca
	s = newSet(own, newLogger(t))
	require.False(t, s.refresh(t.Context()))
	require.ErrorContains(t, s.state.Load().err, "ca: open")
	require.NoError(t, os.WriteFile(ca, []byte("x"), 0o600))
	require.False(t, s.refresh(t.Context()))
	require.EqualError(t, s.state.Load().err, "ca: "+ca+" has no certificate in PEM")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	require.True(t, s.refresh(t.Context()))
	requireKeys(t, s, 1)
}

// patience is how long a change may take to show. It takes milliseconds; a machine under load may need more.
const patience = 20 * time.Second

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

	file := func(path string) Source { s := fast; s.File = path; return s }
	store := Open(t.Context(), map[string]Source{
		"plain": file(plain), "linked": file(linked), "missing": file(filepath.Join(directory, "missing")), "directory": file(directory),
		"away": file(filepath.Join(directory, "no", "where")),
	}, newLogger(t))
	set := func(name string) *Set { s, ok := store.Set(name); require.True(t, ok); return s }
	_, ok := store.Set("unknown")
	assert.False(t, ok)
	requireKeys(t, set("plain"), 1)
	requireKeys(t, set("linked"), 2)
	for name, problem := range map[string]string{"missing": "no such file", "directory": "is no regular file", "away": "no such file"} {
		_, err := set(name).Keys()
		require.ErrorContains(t, err, "the keys could not be loaded: ")
		require.ErrorContains(t, err, problem)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
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
	assert.Equal(t, 5, stats["linked"].Keys)
	assert.True(t, stats["linked"].Loaded)
	assert.Positive(t, stats["linked"].Refreshed)
	assert.False(t, stats["directory"].Loaded)
	assert.Positive(t, stats["directory"].Failed)
}

func TestSymmetric(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys")
	write(t, path, []byte(`{"keys":[{"kty":"oct","kid":"a","k":"`+strings.Repeat("A", 86)+`"}]}`))
	s := fast
	s.File, s.Symmetric = path, true
	store := Open(t.Context(), map[string]Source{"own": s}, newLogger(t))
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
	source.MinRefresh = time.Millisecond
	store := Open(t.Context(), map[string]Source{"a": source, "b": source}, newLogger(t))
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
	require.Eventually(t, func() bool { return store.Stats()["a"].Refreshed > 20 }, patience, time.Millisecond)
	cancel()
	all.Wait()
	assert.NoError(t, <-done)
}
