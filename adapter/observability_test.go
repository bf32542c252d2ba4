package adapter

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/tollgate-mesh/tollgate/adapter/mixer"
	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/readiness"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/transport/testca"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// setLevel changes the log's level as an operator does.
func (s *service) setLevel(t *testing.T, level string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+s.AdminAddress()+"/log/level?for=1h", strings.NewReader(level))
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
}

// The page says why the last request was denied; of what it was, only what the handler's decision log has as well.
func TestPageShowsWhy(t *testing.T) {
	s := start(t, func(s *settings.Settings) { s.Log.Level = "info" })
	logged := keyParams("logged", "abc")
	logged.DecisionLog = &configpb.DecisionLog{Record: configpb.DecisionLog_DENIALS}
	require.NotZero(t, s.send(t, mixertest.Call(keyParams("shop", "abc"), "planted")).Status.Code)
	_, page := s.get(t, "/")
	assert.Contains(t, page, "<b>shop</b>")
	assert.Contains(t, page, "header_mismatch")
	assert.NotContains(t, page, "alice")
	require.NotZero(t, s.send(t, mixertest.Call(logged, "planted")).Status.Code)
	require.Zero(t, s.send(t, mixertest.Call(logged, "abc")).Status.Code)
	require.NoError(t, mixertest.SendReport(t.Context(), s.connection, mixertest.LogEntryMethod, mixertest.LogEntries(mixertest.Params(logged), mixertest.LogEntry(nil))))
	_, page = s.get(t, "/")
	assert.Contains(t, page, "&#34;user&#34;:&#34;alice&#34;")
	assert.Contains(t, page, "<h2>Reports</h2>")
	for _, path := range []string{"/", "/status.json"} {
		_, content := s.get(t, path)
		assert.NotContains(t, content, "planted")
		assert.Equal(t, 1, strings.Count(content, "header_match"+map[bool]string{true: "<", false: `"`}[path == "/"]))
	}
	assert.NotContains(t, s.log.String(), `"msg":"decision"`)
}

// The page calls a policy source usable for as long as checks use it: also where it is away, but not beyond max_stale.
func TestPageTellsOfStalePolicies(t *testing.T) {
	directory := t.TempDir()
	file := filepath.Join(directory, "shop.rego")
	require.NoError(t, os.WriteFile(file, []byte("package shop\nallow := true\n"), 0o600))
	for maxStale, usable := range map[time.Duration]bool{0: true, time.Hour: true, time.Nanosecond: false} {
		s := settings.Default()
		s.Listen, s.Admin = "127.0.0.1:0", ""
		s.Policies = map[string]settings.PolicySource{"shop": {Directory: directory, MaxStale: maxStale}}
		a, err := New(t.Context(), s, "test", slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		shown := a.status().Sources
		require.Len(t, shown, 1)
		assert.Equal(t, usable, shown[0].Usable, maxStale)
		if usable {
			assert.Empty(t, shown[0].Problem)
		} else {
			assert.Equal(t, "it was not refreshed for 1ns", shown[0].Problem)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, a.Run(ctx))
	}
}

// A process is not ready while its certificate cannot be believed, and says so wherever it is asked.
func TestCertificatesOutOfTimeKeepCallsAway(t *testing.T) {
	authority, err := testca.New()
	require.NoError(t, err)
	directory := t.TempDir()
	issue := func(begin time.Time) testca.Pair {
		pair, err := authority.Issue(testca.Leaf{Names: []string{"127.0.0.1"}, NotBefore: begin, NotAfter: time.Now().Add(24 * time.Hour)})
		require.NoError(t, err)
		return pair
	}
	crt, key := filepath.Join(directory, "crt"), filepath.Join(directory, "key")
	write := func(pair testca.Pair) {
		require.NoError(t, os.WriteFile(key, pair.Key, 0o600))
		require.NoError(t, os.WriteFile(crt, pair.Cert, 0o600))
	}
	write(issue(time.Time{}))
	s := start(t, func(s *settings.Settings) { s.TLS.Cert, s.TLS.Key = crt, key })
	ready := func(want bool) {
		require.Eventually(t, func() bool {
			code, _ := s.get(t, "/readyz")
			return (code == http.StatusOK) == want
		}, patience, 10*time.Millisecond)
	}
	ready(true)
	begin := time.Now().Add(time.Hour)
	write(issue(begin))
	ready(false)
	for _, path := range []string{"/readyz", "/readyz/reports"} {
		_, body := s.get(t, path)
		assert.Equal(t, "tls.cert: the certificate is not valid before "+begin.UTC().Format(time.RFC3339)+"\n", body)
	}
	_, body := s.get(t, "/readyz?verbose")
	assert.Contains(t, body, "[+]serving ok\n[-]tls.cert failed: ")
	_, metrics := s.get(t, "/metrics")
	assert.Contains(t, metrics, `tollgate_ready{calls="checks"} 0`)
	require.Eventually(t, func() bool { return s.healthOf(t, "") == healthpb.HealthCheckResponse_NOT_SERVING }, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), `"msg":"not ready for calls"`) }, patience, 10*time.Millisecond)
	for _, service := range append(mixer.CheckServices(), mixer.ReportServices()...) {
		assert.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, s.healthOf(t, service), service)
	}
	_, page := s.get(t, "/")
	assert.Contains(t, page, `<span class="bad">not ready</span>`)

	// What is no certificate changes nothing, and a new one does.
	require.NoError(t, os.WriteFile(crt, []byte("nonsense"), 0o600))
	require.Eventually(t, func() bool {
		_, page := s.get(t, "/")
		return strings.Contains(page, "holds no certificate") || strings.Contains(page, "failed to find any PEM data")
	}, patience, 10*time.Millisecond)
	write(issue(time.Time{}))
	ready(true)
	require.Eventually(t, func() bool { return s.healthOf(t, "") == healthpb.HealthCheckResponse_SERVING }, patience, 10*time.Millisecond)
	require.NoError(t, os.WriteFile(crt, []byte("nonsense"), 0o600))
	require.Eventually(t, func() bool { return s.transport.Files()[0].Err != nil }, patience, 10*time.Millisecond)
	ready(true) // what was there before still counts
}

// Nobody is told that calls are served before it is known.
func TestHealthBeginsWithNo(t *testing.T) {
	s := settings.Default()
	s.Listen, s.Admin = "127.0.0.1:0", ""
	a, err := New(t.Context(), s, "test", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	for _, name := range append(mixer.CheckServices(), append(mixer.ReportServices(), "")...) {
		assert.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, (&service{Adapter: a}).healthOf(t, name), name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, a.Run(ctx))
}

// healthOf asks the health service without a connection.
func (s *service) healthOf(t *testing.T, service string) healthpb.HealthCheckResponse_ServingStatus {
	t.Helper()
	response, err := s.Adapter.health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
	require.NoError(t, err)
	return response.GetStatus()
}

// A key set that was never there keeps a replica from its first calls, but not for ever.
func TestSourcesAreWaitedFor(t *testing.T) {
	var up atomic.Bool
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			http.Error(w, "later", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, `{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "k", "alg": "EdDSA"}]}`)
	}))
	t.Cleanup(keys.Close)
	change := func(wait time.Duration) func(s *settings.Settings) {
		return func(s *settings.Settings) {
			s.KeySets = map[string]settings.KeySet{"idp": {URL: keys.URL, MinRefresh: time.Second}}
			s.Lists = map[string]settings.List{"away": {File: filepath.Join(t.TempDir(), "none")}}
			s.Readiness.SourceWait = wait
		}
	}
	s := start(t, change(time.Hour))
	isReady := func() bool { code, _ := s.get(t, "/readyz"); return code == http.StatusOK }
	require.Eventually(t, func() bool {
		_, body := s.get(t, "/readyz?verbose")
		return strings.Contains(body, "[-]key_sets.idp failed: it could not be loaded: it answers with HTTP status 503\n[-]lists.away failed: it could not be loaded: ")
	}, patience, 10*time.Millisecond)
	assert.False(t, isReady())
	assert.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, s.healthOf(t, ""))
	// Calls that come all the same are answered.
	assert.Zero(t, s.send(t, mixertest.Call(keyParams("key", "abc"), "abc")).Status.Code)
	up.Store(true)
	require.Eventually(t, func() bool {
		_, body := s.get(t, "/readyz?verbose")
		return strings.Contains(body, "[+]key_sets.idp ok\n[-]lists.away")
	}, patience, 10*time.Millisecond)
	require.NoError(t, os.WriteFile(s.settings.Lists["away"].File, []byte("a\n"), 0o600))
	require.Eventually(t, isReady, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool { return s.healthOf(t, "") == healthpb.HealthCheckResponse_SERVING }, patience, 10*time.Millisecond)
	require.NoError(t, s.end(t))

	up.Store(false)
	s = start(t, change(0))
	require.Eventually(t, isReady, patience, 10*time.Millisecond, "where nothing is waited for")
	require.Eventually(t, func() bool {
		_, body := s.get(t, "/readyz?verbose")
		return strings.Contains(body, "[!]key_sets.idp not waited for any more: it could not be loaded")
	}, patience, 10*time.Millisecond)
}

// Rooms that come later bring conditions of their own.
func TestConditionsCanBeAdded(t *testing.T) {
	s := start(t, nil)
	require.Eventually(t, func() bool { code, _ := s.get(t, "/readyz"); return code == http.StatusOK }, patience, 10*time.Millisecond)
	s.conditions.Add(readiness.Condition{Name: "policies.shop", Probe: func() error { return errors.New("never loaded") }})
	code, body := s.get(t, "/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, code)
	assert.Equal(t, "policies.shop: never loaded\n", body)
}

// Spans are sent at the end, and a collector that is away costs nothing but them.
func TestSpansAreSentAtTheEnd(t *testing.T) {
	before := goroutines()
	var bytes atomic.Int64
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		bytes.Add(n)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	for name, endpoint := range map[string]string{"there": collector.URL, "away": "http://127.0.0.1:1"} {
		s := start(t, func(s *settings.Settings) {
			s.Traces = settings.Traces{SampleOneIn: 1 << 40, OTLP: &settings.OTLPSink{Protocol: "http", Endpoint: endpoint}}
		}, func(a *Adapter) {
			if name == "there" {
				a.flushSpans = patience // it is waited for no longer than it takes
			}
		})
		ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01")
		result, err := mixertest.Send(ctx, s.connection, mixertest.Call(keyParams("key", "abc"), "abc"))
		require.NoError(t, err)
		require.Zero(t, result.Status.Code)
		require.NoError(t, mixertest.SendReport(ctx, s.connection, mixertest.LogEntryMethod, mixertest.LogEntries(mixertest.Params(keyParams("key", "abc")), mixertest.LogEntry(nil))))
		_, metrics := s.get(t, "/metrics")
		assert.Contains(t, metrics, `tollgate_trace_spans_total{result="exported"}`)
		_, page := s.get(t, "/")
		assert.Contains(t, page, "Traces: ")
		require.NoError(t, s.end(t))
		stats := s.tracer.Stats()
		if name == "there" {
			assert.Equal(t, uint64(2), stats.Exported)
			assert.Positive(t, bytes.Load())
		} else {
			assert.Equal(t, uint64(2), stats.Failed)
			assert.Contains(t, s.log.String(), "spans could not be sent")
		}
		assert.Zero(t, stats.Waiting)
		s.connection.Close()
	}
	collector.Close()
	http.DefaultClient.CloseIdleConnections()
	requireNoMoreGoroutines(t, before)
}

// Wrong settings of traces are told with their keys.
func TestTracesThatCannotBeSent(t *testing.T) {
	s := settings.Default()
	s.Listen, s.Admin = "127.0.0.1:0", ""
	s.Traces.OTLP = &settings.OTLPSink{Endpoint: "collector"}
	before := goroutines()
	_, err := New(t.Context(), s, "test", slog.New(slog.DiscardHandler))
	require.EqualError(t, err, `traces.otlp.endpoint is "collector"; with protocol "grpc" it is host:port, such as collector:4317`)
	requireNoMoreGoroutines(t, before)
}
