// Package admin serves what operators and probes ask the process over HTTP: health, readiness, metrics and profiles.
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
)

// Server is the admin listener's HTTP server.
type Server struct {
	http *http.Server
}

// New makes a server. Pages are the metrics: those of "" at /metrics, those of another name at /metrics/<name>. Ready says why the process should get no calls; nil where it should. ReadyForReports says the same of report
// calls alone. Complaints are lines for people about what is wrong although the process is ready.
func New(pages map[string]prometheus.Gatherer, ready, readyForReports func() error, complaints func() []string) *Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", answer(ready, complaints))
	mux.HandleFunc("GET /readyz/reports", answer(readyForReports, nil))
	mux.HandleFunc("GET /metrics", metrics(pages))
	mux.HandleFunc("GET /metrics/{page}", metrics(pages))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
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

func answer(ready func() error, complaints func() []string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
		if complaints != nil {
			for _, line := range complaints() {
				_, _ = fmt.Fprintln(w, line)
			}
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
