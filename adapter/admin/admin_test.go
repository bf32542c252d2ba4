package admin_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves until the test ends, and returns the server and its URL.
func start(t *testing.T, gatherer prometheus.Gatherer, ready func() error) (*admin.Server, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := admin.New(map[string]prometheus.Gatherer{"": gatherer, "other": gatherer}, ready, func() error { return errors.New("the disk is full") },
		func() []string { return []string{"policy source shop is not loaded yet"} })
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		server.Shutdown(ctx)
		assert.NoError(t, <-done)
	})
	return server, "http://" + listener.Addr().String()
}

func ask(t *testing.T, method, url string) (status int, body string, header http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(content), response.Header
}

func always() error { return nil }

func TestEndpoints(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_test_total", Help: "A test's."})
	counter.Add(3)
	registry.MustRegister(counter)
	_, url := start(t, registry, always)
	for _, c := range []struct {
		path, body string
	}{
		{"/healthz", "ok\n"},
		{"/readyz", "ok\npolicy source shop is not loaded yet\n"},
		{"/metrics", "# TYPE tollgate_test_total counter\ntollgate_test_total 3\n"},
		{"/metrics/other", "# TYPE tollgate_test_total counter\ntollgate_test_total 3\n"},
		{"/debug/pprof/", "goroutine"},
		{"/debug/pprof/heap?debug=1", "heap profile"},
		{"/debug/pprof/goroutine?debug=1", "goroutine profile"},
		{"/debug/pprof/cmdline", "admin.test"},
		{"/debug/pprof/symbol", "num_symbols"},
		{"/debug/pprof/profile?seconds=1", "\x1f\x8b"}, // gzip
		{"/debug/pprof/trace?seconds=0.1", "go 1."},
	} {
		status, body, _ := ask(t, http.MethodGet, url+c.path)
		assert.Equal(t, http.StatusOK, status, c.path)
		assert.Contains(t, body, c.body, c.path)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	_, url := start(t, prometheus.NewRegistry(), always)
	for _, path := range []string{"/", "/health", "/healthz/", "/metrics/x", "/readyz/..%2f", "/debug", "/debug/vars", "/debug/pprof/nothing"} {
		status, _, _ := ask(t, http.MethodGet, url+path)
		assert.Equal(t, http.StatusNotFound, status, path)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/debug/pprof/", "/debug/pprof/profile"} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
			status, _, header := ask(t, method, url+path)
			assert.Equal(t, http.StatusMethodNotAllowed, status, "%s %s", method, path)
			assert.Equal(t, "GET, HEAD", header.Get("Allow"))
		}
	}
	status, body, _ := ask(t, http.MethodHead, url+"/healthz")
	assert.Equal(t, http.StatusOK, status)
	assert.Empty(t, body)
}

func TestReadiness(t *testing.T) {
	var ready atomic.Bool
	_, url := start(t, prometheus.NewRegistry(), func() error {
		if !ready.Load() {
			return errors.New("starting or shutting down")
		}
		return nil
	})
	for _, now := range []bool{false, true, false} {
		ready.Store(now)
		status, body, _ := ask(t, http.MethodGet, url+"/readyz/reports")
		assert.Equal(t, http.StatusServiceUnavailable, status, "of reports it is told by itself")
		assert.Equal(t, "the disk is full\n", body)
		status, body, _ = ask(t, http.MethodGet, url+"/readyz")
		if now {
			assert.Equal(t, http.StatusOK, status)
		} else {
			assert.Equal(t, http.StatusServiceUnavailable, status)
			assert.Equal(t, "starting or shutting down\n", body)
		}
		status, _, _ = ask(t, http.MethodGet, url+"/healthz")
		assert.Equal(t, http.StatusOK, status, "alive, whether ready or not")
	}
}

// broken is a collector out of order.
type broken struct{}

func (broken) Describe(chan<- *prometheus.Desc) {}

func (broken) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.NewInvalidMetric(prometheus.NewDesc("broken", "Broken.", nil, nil), errors.New("out of order"))
}

// A collector that fails costs an error, not the process.
func TestMetricsThatCannotBeGathered(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(broken{})
	_, url := start(t, registry, always)
	status, body, _ := ask(t, http.MethodGet, url+"/metrics")
	assert.Equal(t, http.StatusInternalServerError, status)
	assert.Contains(t, body, "out of order")
}

func TestHugeHeadersAreRefused(t *testing.T) {
	_, url := start(t, prometheus.NewRegistry(), always)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/healthz", nil)
	require.NoError(t, err)
	request.Header.Set("X-Huge", strings.Repeat("x", 64<<10))
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	assert.Equal(t, http.StatusRequestHeaderFieldsTooLarge, response.StatusCode)
}

// A profile that is being taken may hold up the end only as long as the caller says.
func TestShutdownCutsOffWhatTakesTooLong(t *testing.T) {
	server, url := start(t, prometheus.NewRegistry(), always)
	ended := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, url+"/debug/pprof/trace?seconds=600", nil)
		if err == nil {
			close(begun)
			var response *http.Response
			if response, err = http.DefaultClient.Do(request); err == nil {
				_, err = io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
		}
		ended <- err
	}()
	<-begun
	time.Sleep(50 * time.Millisecond) // for the request to arrive; whether it did changes nothing
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	server.Shutdown(ctx)
	require.Error(t, <-ended)
}

func TestServeReportsALostListener(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	require.ErrorContains(t, admin.New(nil, always, always, nil).Serve(listener), "admin: ")
}

func TestShutdownBeforeServe(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := admin.New(nil, always, always, nil)
	server.Shutdown(t.Context())
	require.NoError(t, server.Serve(listener))
	_, err = listener.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}
