// Package observe is what operators see of the adapter: metrics and logs. Neither shows a secret or anything of a request but
// the instance's name.
package observe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/time/rate"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// NewLogger makes a logger of the given level (debug, info, warn, error) and format (json, text). LevelOf changes its level.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	l := &slog.LevelVar{}
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level is %q; use debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(leveled{slog.NewJSONHandler(w, options), l}), nil
	case "text":
		return slog.New(leveled{slog.NewTextHandler(w, options), l}), nil
	default:
		return nil, fmt.Errorf("log format is %q; use json or text", format)
	}
}

// Observer counts and logs what the adapter does. It implements the door's Observer.
type Observer struct {
	logger   *slog.Logger
	registry *prometheus.Registry

	decisions *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	compiled  *prometheus.CounterVec
	amounts   *prometheus.CounterVec

	reports, reportCalls *prometheus.CounterVec
	refused              *prometheus.CounterVec
	shadows              shadows

	counters sync.Map // counterKey → prometheus.Counter: the vector's own look-up hashes every label at every call
	handlers labels
	failures throttle
	problems throttle
	refusals throttle

	prints    *rate.Limiter
	unprinted atomic.Uint64
}

// printsPerSecond bounds what policies print to the log, but for a burst of ten times as many.
const printsPerSecond = 10

type counterKey struct {
	handler, outcome, class string
}

// New makes an observer with a registry of its own.
func New(logger *slog.Logger, version string) *Observer {
	o := &Observer{
		logger:   logger,
		registry: prometheus.NewRegistry(),
		prints:   rate.NewLimiter(printsPerSecond, 10*printsPerSecond),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_decisions_total",
			Help: "Decisions by handler, outcome (allow, deny, failed_open, failed_closed) and failure class (none where nothing failed).",
		}, []string{"handler", "outcome", "class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tollgate_decision_seconds",
			Help:    "Time from a received call to its decision, by outcome.",
			Buckets: []float64{10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5},
		}, []string{"outcome"}),
		compiled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_handlers_compiled_total",
			Help: "Handler configurations compiled, by result (ok, or the failure class).",
		}, []string{"result"}),
	}
	o.reports = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tollgate_reports_total",
		Help: "Reported instances by handler, kind and result (accepted, sampled_out, malformed, refused).",
	}, []string{"handler", "kind", "result"})
	o.reportCalls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tollgate_report_calls_total",
		Help: "Report calls by kind and result (ok, or the class of refusal).",
	}, []string{"kind", "result"})
	o.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tollgate_refused_total",
		Help: "Connections and calls refused before anything was decided, by reason.",
	}, []string{"reason"})
	o.amounts = newAmounts()
	o.shadows = newShadows(o.registry)
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tollgate_build_info", Help: "Always 1; the version is a label.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	o.registry.MustRegister(o.decisions, o.seconds, o.compiled, o.amounts, o.reports, o.reportCalls, o.refused, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return o
}

// CountSecrets makes the number of secrets without a valid value a metric.
func (o *Observer) CountSecrets(unavailable func() []string) {
	o.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tollgate_secrets_unavailable",
		Help: "Named secrets that have no valid value now; the log names them.",
	}, func() float64 { return float64(len(unavailable())) }))
}

// Registry returns the metrics, for the admin listener and for further collectors.
func (o *Observer) Registry() *prometheus.Registry { return o.registry }

// Decided counts a decision; logs it at debug; and logs a failure at warn, at most once in ten seconds a handler and class.
func (o *Observer) Decided(handler *config.Handler, instance string, d policy.Decision, elapsed time.Duration) {
	key := counterKey{handler: "unknown", outcome: d.Outcome(), class: "none"}
	if handler != nil {
		key.handler = o.handlers.bounded(handler.Name)
	}
	if d.Failure != nil {
		key.class = d.Failure.Class.String()
	}
	o.counter(key).Inc()
	o.seconds.WithLabelValues(key.outcome).Observe(elapsed.Seconds())
	if d.Asked > 0 {
		o.countAmount(key.handler, d)
	}

	if d.Failure != nil {
		if more, ok := o.failures.allow(key.handler + "/" + key.class); ok {
			o.logger.Warn("a check failed", "handler", key.handler, "outcome", key.outcome, "class", key.class,
				"detail", d.Failure.Detail, "like_this_since_last_line", more)
		}
	}
	if o.logger.Enabled(context.Background(), slog.LevelDebug) {
		withFindings(o.logger, d.Findings).Debug("decision", "handler", key.handler, "instance", instance, "outcome", key.outcome, "code", d.Code.String(),
			"check", d.Check, "reason", d.Reason, "valid_duration", d.Lifetime.Duration.String(), "valid_use_count", d.Lifetime.Uses,
			"revision", d.Revision, "cached", d.Cached, "elapsed", elapsed.String())
	}
}

func (o *Observer) counter(key counterKey) prometheus.Counter {
	if cached, ok := o.counters.Load(key); ok {
		if counter, ok := cached.(prometheus.Counter); ok {
			return counter
		}
	}
	counter := o.decisions.WithLabelValues(key.handler, key.outcome, key.class)
	o.counters.Store(key, counter)
	return counter
}

// Compiled counts a compiled handler, and logs it: at info where it can decide, at warn with every problem where not.
func (o *Observer) Compiled(p *policy.Policy, elapsed time.Duration) {
	handler := p.Handler()
	failure := p.Failure()
	if failure == nil {
		o.compiled.WithLabelValues("ok").Inc()
		o.logger.Info("handler compiled", "handler", handler.Name, "fingerprint", handler.Fingerprint, "checks", p.Checks(),
			"modes", handler.Modes.String(), "elapsed", elapsed.String())
		if wide := p.ReadsEverything(); len(wide) > 0 {
			o.logger.Warn("a handler's policy reads the whole input", "handler", handler.Name, "fingerprint", handler.Fingerprint, "because", wide)
		}
		return
	}
	o.compiled.WithLabelValues(failure.Class.String()).Inc()
	if more, ok := o.problems.allow(handler.Name); ok {
		o.logger.Warn("a handler cannot decide", "handler", handler.Name, "fingerprint", handler.Fingerprint, "class", failure.Class.String(),
			"mode", handler.Modes.Of(failure.Class).String(), "detail", failure.Detail, "like_this_since_last_line", more)
	}
}

// labels bounds the values of a label whose values others choose.
type labels struct {
	mu   sync.RWMutex
	seen map[string]bool
}

// maxHandlers is how many handlers get a label of their own.
const maxHandlers = 200

func (l *labels) bounded(name string) string {
	l.mu.RLock()
	known, full := l.seen[name], len(l.seen) >= maxHandlers
	l.mu.RUnlock()
	if known {
		return name
	}
	if full {
		return "other"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	if len(l.seen) >= maxHandlers && !l.seen[name] {
		return "other"
	}
	l.seen[name] = true
	return name
}

// throttle lets one event of a kind through in ten seconds, and counts those it holds back.
type throttle struct {
	mu    sync.Mutex
	kinds map[string]*kind
	// forgot is when kinds were last forgotten.
	forgot time.Time
}

type kind struct {
	last time.Time // when one was let through
	held int
}

const (
	throttleInterval = 10 * time.Second
	// maxKinds bounds the memory; past it everything new shares one kind.
	maxKinds = 1000
	// forgetAfter is when a kind of which nothing comes any more makes room for others.
	forgetAfter = 10 * throttleInterval
)

func (t *throttle) allow(name string) (held int, ok bool) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kinds == nil {
		t.kinds = map[string]*kind{}
	}
	if t.kinds[name] == nil && len(t.kinds) >= maxKinds {
		t.forget(now)
		if len(t.kinds) >= maxKinds {
			name = "other"
		}
	}
	k := t.kinds[name]
	if k == nil {
		k = &kind{}
		t.kinds[name] = k
	}
	if now.Sub(k.last) < throttleInterval {
		k.held++
		return 0, false
	}
	held, k.held, k.last = k.held, 0, now
	return held, true
}

// forget makes room. It looks now and then only: in a flood of new kinds there is nothing to be found.
func (t *throttle) forget(now time.Time) {
	if now.Sub(t.forgot) < throttleInterval {
		return
	}
	t.forgot = now
	maps.DeleteFunc(t.kinds, func(_ string, k *kind) bool { return now.Sub(k.last) >= forgetAfter })
}
