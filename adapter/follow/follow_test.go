package follow_test

import (
	"compress/gzip"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long what ought to happen at once may take.
const patience = 2 * time.Minute

// source is one with generous bounds.
func source() follow.Source {
	return follow.Source{MaxBytes: 1000, Refresh: time.Minute, MaxStale: time.Hour, Timeout: patience}
}

func fromFile(path string) follow.Source {
	s := source()
	s.File = path
	return s
}

func fromURL(url string) follow.Source {
	s := source()
	s.URL = url
	return s
}

// parsed takes any text that does not begin with "bad".
func parsed(document []byte) (string, error) {
	switch text := string(document); {
	case strings.HasPrefix(text, "bad"):
		return "", errors.New("it is bad")
	case strings.HasPrefix(text, "panic"):
		panic("planted")
	default:
		return text, nil
	}
}

func newDocument(source follow.Source) (*follow.Document[string], *logtest.Buffer) {
	written := &logtest.Buffer{}
	return follow.New(source, parsed, slog.New(slog.NewTextHandler(written, nil))), written
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(content), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// run follows the document until the test ends.
func run(t *testing.T, d *follow.Document[string]) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = follow.Documents[string]{"d": d}.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

func becomes(t *testing.T, d *follow.Document[string], want string) {
	t.Helper()
	require.Eventually(t, func() bool {
		got, err := d.Current()
		return err == nil && got == want
	}, patience, time.Millisecond, "it never became %q", want)
}

func TestTheLastGoodDocumentCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "d")
		d, written := newDocument(fromFile(path))
		current := func() string {
			got, err := d.Current()
			if err != nil {
				assert.Empty(t, got)
				return "error: " + strings.ReplaceAll(err.Error(), path, "d")
			}
			return got
		}
		assert.Equal(t, "error: it is not loaded yet", current())
		assert.False(t, d.Read(t.Context()))
		assert.Equal(t, "error: it could not be loaded: stat d: no such file or directory", current())
		_, stats := d.Last()
		assert.Equal(t, follow.Stats{Failed: 1}, stats)

		write(t, path, "first")
		assert.True(t, d.Read(t.Context()))
		assert.Equal(t, "first", current())
		for _, wrong := range []string{"bad", "panic", strings.Repeat("x", 1001)} {
			write(t, path, wrong)
			assert.False(t, d.Read(t.Context()))
			assert.Equal(t, "first", current())
		}
		assert.Contains(t, written.String(), "it has more than 1000 bytes")
		assert.Contains(t, written.String(), "reading it panicked: string")
		assert.NotContains(t, written.String(), "planted")
		require.NoError(t, os.Remove(path))
		assert.False(t, d.Read(t.Context()))
		time.Sleep(time.Hour)
		assert.Equal(t, "first", current())
		time.Sleep(time.Nanosecond)
		assert.Equal(t, "error: it could not be refreshed for 1h0m0s: stat d: no such file or directory", current())
		value, stats := d.Last()
		assert.Equal(t, "first", value)
		assert.Equal(t, follow.Stats{Loaded: true, Age: time.Hour + 1, Read: 1, Failed: 5}, stats)

		write(t, path, "first")
		assert.True(t, d.Read(t.Context()))
		assert.Equal(t, "first", current(), "what is the same again is fresh")
		time.Sleep(time.Hour + 1)
		assert.Equal(t, "error: it was not refreshed for 1h0m0s", current())
	})
}

// Nobody wants to know of an attempt that the end of the process cut short.
func TestReadAfterTheEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d, written := newDocument(fromURL("http://127.0.0.1:1"))
	assert.False(t, d.Read(ctx))
	_, err := d.Current()
	require.ErrorIs(t, err, follow.ErrNotLoaded)
	assert.Empty(t, written.String())
}

func TestFilesAreFollowed(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	path := filepath.Join(directory, "d")
	write(t, path, "first")
	d, _ := newDocument(fromFile(path))
	run(t, d)
	becomes(t, d, "first")
	write(t, path, "second")
	becomes(t, d, "second")

	// As a mounted ConfigMap changes: through the symlink of a symlink.
	mounted := t.TempDir()
	for _, version := range []string{"..1", "..2"} {
		require.NoError(t, os.Mkdir(filepath.Join(mounted, version), 0o700))
		write(t, filepath.Join(mounted, version, "d"), version)
	}
	require.NoError(t, os.Symlink("..1", filepath.Join(mounted, "..data")))
	require.NoError(t, os.Symlink("..data/d", filepath.Join(mounted, "d")))
	d, _ = newDocument(fromFile(filepath.Join(mounted, "d")))
	run(t, d)
	becomes(t, d, "..1")
	require.NoError(t, os.Symlink("..2", filepath.Join(mounted, "..data_tmp")))
	require.NoError(t, os.Rename(filepath.Join(mounted, "..data_tmp"), filepath.Join(mounted, "..data")))
	becomes(t, d, "..2")
}

// A directory that is not there cannot be watched; it is looked for now and then.
func TestAFileThatComesLater(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "later")
	s := fromFile(filepath.Join(directory, "d"))
	s.Refresh = 10 * time.Millisecond
	d, written := newDocument(s)
	run(t, d)
	require.Eventually(t, func() bool { _, stats := d.Last(); return stats.Failed > 2 }, patience, time.Millisecond)
	require.NoError(t, os.Mkdir(directory, 0o700))
	write(t, s.File, "there")
	becomes(t, d, "there")
	assert.Contains(t, written.String(), "cannot be watched")
}

func TestFilesThatAreNone(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	pipe := filepath.Join(directory, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	for path, want := range map[string]string{directory: "is no regular file", pipe: "is no regular file", "/dev/zero": "is no regular file"} {
		d, _ := newDocument(fromFile(path))
		assert.False(t, d.Read(t.Context()))
		_, err := d.Current()
		assert.ErrorContains(t, err, want)
	}
}

// serve answers with what the handler says.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func TestURLsAreFollowed(t *testing.T) {
	t.Parallel()
	var answer atomic.Value
	answer.Store("first")
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		switch text, _ := answer.Load().(string); text {
		case "down":
			w.WriteHeader(http.StatusBadGateway)
		default:
			fmt.Fprint(w, text)
		}
	})
	s := fromURL(server.URL)
	s.Refresh = 5 * time.Millisecond
	d, _ := newDocument(s)
	run(t, d)
	becomes(t, d, "first")
	for _, wrong := range []string{"down", "bad"} {
		answer.Store(wrong)
		_, before := d.Last()
		require.Eventually(t, func() bool { _, stats := d.Last(); return stats.Failed > before.Failed }, patience, time.Millisecond)
		becomes(t, d, "first")
	}
	answer.Store("second")
	becomes(t, d, "second")
}

func TestWhatURLsMayAnswer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"a document": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "text") }, ""},
		"an error":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, "it answers with HTTP status 404"},
		"no content": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, "it answers with HTTP status 204"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/planted", http.StatusFound) }, "it answers with a redirect; write the address that it leads to"},
		"half of it": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
		}, "unexpected EOF"},
		"too much": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 1001)) }, "it has more than 1000 bytes"},
		"without an end": {func(w http.ResponseWriter, _ *http.Request) {
			for _, err := fmt.Fprint(w, strings.Repeat("x", 1000)); err == nil; {
				_, err = fmt.Fprint(w, strings.Repeat("x", 1000))
			}
		}, "it has more than 1000 bytes"},
		"a bomb": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(make([]byte, 10<<20))
			_ = z.Close()
		}, "it has more than 1000 bytes"},
		"headers without an end": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		}, "exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, written := newDocument(fromURL(serve(t, c.handler).URL + "/planted?token=planted"))
			assert.Equal(t, c.want == "", d.Read(t.Context()))
			_, err := d.Current()
			if c.want != "" {
				require.ErrorContains(t, err, c.want)
				assert.NotContains(t, err.Error()+written.String(), "planted")
			}
		})
	}
}

func TestAURLThatIsAwayOrSlow(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	slow := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	s := fromURL(slow.URL)
	s.Timeout = 20 * time.Millisecond
	d, _ := newDocument(s)
	assert.False(t, d.Read(t.Context()))
	_, err := d.Current()
	require.ErrorIs(t, err, context.DeadlineExceeded)

	d, _ = newDocument(fromURL("http://127.0.0.1:1/planted")) // where nobody is, while a port that was free may be another's by now
	assert.False(t, d.Read(t.Context()))
	_, err = d.Current()
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	assert.NotContains(t, err.Error(), "planted")
}

// The attempt ends, and so does its connection, to a server that does not say who it is.
func TestConnectionsEnd(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	var came atomic.Bool
	left := make(chan struct{})
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		came.Store(true)
		_, _ = io.Copy(io.Discard, connection)
		close(left)
	}()
	s := fromURL("https://" + listener.Addr().String())
	s.Timeout = 100 * time.Millisecond
	d, _ := newDocument(s)
	// On a busy machine an attempt may be over before it comes to connect.
	require.Eventually(t, func() bool { assert.False(t, d.Read(t.Context())); return came.Load() }, patience, time.Millisecond)
	select {
	case <-left:
	case <-time.After(patience):
		t.Fatal("the connection stays")
	}
}

func TestTheServerIsVerified(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "text") }))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	s := fromURL(server.URL)
	for _, c := range []struct{ pem, want string }{
		{"", "has no certificate in PEM"},
		{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})), ""},
	} {
		require.NoError(t, os.WriteFile(ca, []byte(c.pem), 0o600))
		s.CA = ca
		d, _ := newDocument(s)
		assert.Equal(t, c.want == "", d.Read(t.Context()))
		if _, err := d.Current(); c.want != "" {
			require.ErrorContains(t, err, c.want)
		}
	}
	for _, ca := range []string{"", filepath.Join(t.TempDir(), "missing")} {
		s.CA = ca
		d, _ := newDocument(s)
		assert.False(t, d.Read(t.Context()), "nobody vouches for it")
	}
}

// What is the same as before is not parsed anew: lists are large, and looked at often.
func TestTheSameDocumentIsParsedOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "d")
	write(t, path, "text")
	parses := 0
	d := follow.New(fromFile(path), func([]byte) (int, error) { parses++; return parses, nil }, slog.New(slog.DiscardHandler))
	for range 3 {
		require.True(t, d.Read(t.Context()))
	}
	assert.Equal(t, 1, parses)
	write(t, path, "other")
	require.True(t, d.Read(t.Context()))
	got, err := d.Current()
	require.NoError(t, err)
	assert.Equal(t, 2, got)
}
