package lists_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
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

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/lists"
	"github.com/tollgate-mesh/tollgate/adapter/policy/list"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 2 * time.Minute

func from(file, url string) follow.Source {
	return follow.Source{File: file, URL: url, Refresh: 5 * time.Millisecond, MaxStale: time.Hour, Timeout: patience}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(content), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

func run(t *testing.T, store *lists.Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
}

func TestStore(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	file := filepath.Join(directory, "offices")
	write(t, file, "10.0.0.0/8\n192.0.2.1\n")
	var blocked atomic.Value
	blocked.Store("curl\n")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, blocked.Load()) }))
	defer server.Close()
	store := lists.Open(t.Context(), map[string]lists.Source{
		"offices": {Type: config.IPAddresses, From: from(file, "")},
		"blocked": {Type: config.CaseInsensitiveStrings, From: from("", server.URL)},
		"missing": {Type: config.Strings, From: from(filepath.Join(directory, "missing"), "")},
	}, slog.New(slog.DiscardHandler))

	offices, ok := store.Source("offices")
	require.True(t, ok)
	assert.Equal(t, config.IPAddresses, offices.Type())
	current, err := offices.Current()
	require.NoError(t, err, "files are there from the start")
	assert.Equal(t, 2, current.Len())
	byURL, ok := store.Source("blocked")
	require.True(t, ok)
	_, err = byURL.Current()
	require.ErrorIs(t, err, list.ErrNotLoaded, "the start waits for nobody")
	missing, ok := store.Source("missing")
	require.True(t, ok)
	_, err = missing.Current()
	require.ErrorContains(t, err, "no such file")
	_, ok = store.Source("other")
	assert.False(t, ok)
	stats := store.Stats()
	assert.Len(t, stats, 3)
	assert.Equal(t, follow.Stats{}, stats["blocked"])
	assert.Equal(t, follow.Stats{Failed: 1}, stats["missing"])
	assert.Equal(t, 2, stats["offices"].Size)
	assert.True(t, stats["offices"].Loaded)

	run(t, store)
	listed := func(source list.Source, value string) func() bool {
		return func() bool {
			current, err := source.Current()
			if err != nil {
				return false
			}
			is, err := current.Contains(t.Context(), attribute.OfText(attribute.String, value))
			return err == nil && is
		}
	}
	require.Eventually(t, listed(byURL, "CURL"), patience, time.Millisecond)
	blocked.Store("wget\n")
	require.Eventually(t, listed(byURL, "Wget"), patience, time.Millisecond)
	assert.False(t, listed(byURL, "curl")())
	write(t, file, "10.0.0.0/8\nhalf a li")
	require.Eventually(t, func() bool { return store.Stats()["offices"].Failed > 0 }, patience, time.Millisecond)
	assert.True(t, listed(offices, "10.1.1.1")(), "the last good list counts")
	write(t, file, "11.0.0.0/8\n")
	require.Eventually(t, listed(offices, "11.1.1.1"), patience, time.Millisecond)
	assert.False(t, listed(offices, "10.1.1.1")())
	write(t, filepath.Join(directory, "missing"), "found")
	require.Eventually(t, listed(missing, "found"), patience, time.Millisecond)
}

// No decision comes of half a list: 100 000 blocks are replaced by others again and again while they are asked about.
func TestReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "blocks")
	blocks := func(version int) string {
		var b strings.Builder
		for i := range 100_000 {
			fmt.Fprintf(&b, "%d.%d.%d.%d/28\n", 10+version, i/4096, i/16%256, i%16*16)
		}
		b.WriteString("192.0.2.0/24\n")
		return b.String()
	}
	versions := []string{blocks(0), blocks(1)}
	write(t, file, versions[0])
	store := lists.Open(t.Context(), map[string]lists.Source{"blocks": {Type: config.IPAddresses, From: from(file, "")}}, slog.New(slog.DiscardHandler))
	run(t, store)
	source, _ := store.Source("blocks")
	address := func(text string) attribute.Value { return attribute.OfIP(string(netip.MustParseAddr(text).AsSlice())) }
	always, first, second, never := address("192.0.2.7"), address("10.0.0.1"), address("11.0.0.1"), address("203.0.113.1")

	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				current, err := source.Current()
				if err != nil {
					t.Error(err)
					return
				}
				is := func(v attribute.Value) bool {
					listed, err := current.Contains(t.Context(), v)
					assert.NoError(t, err)
					return listed
				}
				if !assert.True(t, is(always)) || !assert.False(t, is(never)) || !assert.NotEqual(t, is(first), is(second)) {
					return
				}
			}
		})
	}
	for i := range 6 {
		before := store.Stats()["blocks"]
		write(t, file, versions[(i+1)%2])
		require.Eventually(t, func() bool {
			current, err := source.Current()
			if err != nil {
				return false
			}
			listed, _ := current.Contains(t.Context(), []attribute.Value{second, first}[i%2])
			return listed
		}, patience, time.Millisecond, "%+v", before)
	}
	close(stop)
	callers.Wait()
	assert.Zero(t, store.Stats()["blocks"].Failed)
}
