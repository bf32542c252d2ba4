package observe

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// shadows counts what becomes of candidates.
type shadows struct {
	compared, notCompared *prometheus.CounterVec
}

func newShadows(registry *prometheus.Registry) shadows {
	s := shadows{
		compared: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_shadow_decisions_total",
			Help: "Candidates' decisions by handler and divergence from the one that counted (agree, would_deny, would_allow, would_fail, differ).",
		}, []string{"handler", "divergence"}),
		notCompared: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollgate_shadow_not_compared_total",
			Help: "Checks whose candidate was to be evaluated and was not, by handler and reason (invalid, compiling, busy, ending).",
		}, []string{"handler", "reason"}),
	}
	registry.MustRegister(s.compared, s.notCompared)
	return s
}

// Compared counts a candidate's decision, and logs it at debug.
func (o *Observer) Compared(c *policy.Comparison) {
	handler := o.handlers.bounded(c.Handler.Name)
	o.shadows.compared.WithLabelValues(handler, c.Divergence.String()).Inc()
	if !o.logger.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	d := &c.Candidate
	withFindings(o.logger, d.Findings).Debug("shadow decision", "handler", handler, "instance", c.Request.Instance, "divergence", c.Divergence.String(),
		"decided", c.Decided.Outcome(), "outcome", d.Outcome(), "code", d.Code.String(), "check", d.Check, "reason", d.Reason,
		"valid_duration", d.Lifetime.Duration.String(), "valid_use_count", d.Lifetime.Uses,
		"revision", d.Revision, "elapsed", c.CandidateIn.String())
}

// NotCompared counts a candidate that was to be evaluated and was not.
func (o *Observer) NotCompared(handler *config.Handler, reason string) {
	o.shadows.notCompared.WithLabelValues(o.handlers.bounded(handler.Name), reason).Inc()
}

// CandidateCompiled logs a candidate: at info where it can decide, at warn with every problem where not.
func (o *Observer) CandidateCompiled(p *policy.Policy, elapsed time.Duration) {
	handler, failure := p.Handler(), p.Failure()
	if failure == nil {
		o.logger.Info("candidate compiled", "handler", handler.Name, "fingerprint", handler.Fingerprint, "checks", p.Checks(),
			"modes", handler.Modes.String(), "elapsed", elapsed.String())
		return
	}
	if more, ok := o.problems.allow("candidate of " + handler.Name); ok {
		o.logger.Warn("a candidate cannot be evaluated; its handler decides as before", "handler", handler.Name, "class", failure.Class.String(),
			"detail", failure.Detail, "like_this_since_last_line", more)
	}
}

// withFindings adds what each check said, in a few words; nothing where one check says it all.
func withFindings(logger *slog.Logger, found []policy.Finding) *slog.Logger {
	if len(found) == 0 {
		return logger
	}
	list := make([]string, 0, len(found))
	for _, f := range found {
		list = append(list, strings.Join([]string{f.Check, f.Result.String(), f.Reason}, " "))
	}
	return logger.With("checks", list)
}
