// Package admin serves what operators and probes ask the process over HTTP: a page that shows what it does, health, readiness, metrics,
// the log's level and profiles.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/readiness"
)

// Server is the admin listener's HTTP server.
type Server struct {
	http *http.Server
}

// Options are what a server shows.
type Options struct {
	// Metrics are those of "" at /metrics, those of another name at /metrics/<name>.
	Metrics map[string]prometheus.Gatherer
	// Ready returns what was found of the conditions for calls.
	Ready func(readiness.Calls) readiness.Findings
	// Level is the log's.
	Level *observe.Level
	// Status returns what the page shows.
	Status func() Status
}

// New makes a server.
func New(o Options) *Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", answer(o.Ready, readiness.All))
	mux.HandleFunc("GET /readyz/reports", answer(o.Ready, readiness.Reports))
	mux.HandleFunc("GET /metrics", metrics(o.Metrics))
	mux.HandleFunc("GET /metrics/{page}", metrics(o.Metrics))
	people := func(pattern string, handler http.HandlerFunc) { mux.Handle(pattern, forPeople(handler)) }
	people("GET /{$}", page(o.Status))
	people("GET /status.json", statusJSON(o.Status))
	people("GET /log/level", level(o.Level))
	people("PUT /log/level", setLevel(o.Level))
	people("GET /debug/pprof/", notForOthers(pprof.Index))
	people("GET /debug/pprof/cmdline", notForOthers(pprof.Cmdline))
	people("GET /debug/pprof/profile", notForOthers(pprof.Profile))
	people("GET /debug/pprof/symbol", notForOthers(pprof.Symbol))
	people("GET /debug/pprof/trace", notForOthers(pprof.Trace))
	const patience = 10 * time.Second
	return &Server{http: &http.Server{Handler: mux, ReadHeaderTimeout: patience, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}}
}

func metrics(pages map[string]prometheus.Gatherer) http.HandlerFunc {
	handlers := make(map[string]http.Handler, len(pages))
	for name, gatherer := range pages {
		handlers[name] = promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{})
	}
	return func(w http.ResponseWriter, r *http.Request) {
		handler := handlers[r.PathValue("page")]
		if handler == nil {
			http.NotFound(w, r)
			return
		}
		handler.ServeHTTP(w, r)
	}
}

// answer says whether the process is ready for calls, and why not; with ?verbose it tells of each condition.
func answer(find func(readiness.Calls) readiness.Findings, calls readiness.Calls) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		found := find(calls)
		err := found.Err()
		switch verbose := r.URL.Query().Has("verbose"); {
		case verbose && err != nil:
			http.Error(w, found.String()+"not ready", http.StatusServiceUnavailable)
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case verbose:
			_, _ = fmt.Fprintf(w, "%sready\n", found)
		default:
			_, _ = fmt.Fprintln(w, "ok")
		}
	}
}

// Serve answers requests until Shutdown. It closes the listener.
func (s *Server) Serve(listener net.Listener) error {
	if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

// Shutdown ends the server; requests under way may finish until ctx is done.
func (s *Server) Shutdown(ctx context.Context) {
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close()
	}
}
