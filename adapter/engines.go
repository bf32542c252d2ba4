package adapter

import (
	"cmp"
	"runtime"

	"github.com/tollgate-mesh/tollgate/adapter/decisionlog"
	"github.com/tollgate-mesh/tollgate/adapter/mixer"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/apikey"
	"github.com/tollgate-mesh/tollgate/adapter/policy/basic"
	"github.com/tollgate-mesh/tollgate/adapter/policy/header"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/adapter/policy/list"
	"github.com/tollgate-mesh/tollgate/adapter/policy/quota"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/transport"
)

// newDoor returns Mixer's door, with the engines behind it.
func (a *Adapter) newDoor(observer *observe.Observer, spans mixer.Tracer) *mixer.Door {
	limits := a.settings.Limits
	gate := policy.NewGate(limits.ConcurrentChecks, limits.QueueWait)
	remembered := rego.NewCache(limits.DecisionCache.Bytes, limits.DecisionCache.HandlerBytes)
	observer.CountDecisionCache(remembered.Stats)
	door := mixer.NewDoor(mixer.Engines{
		Compiler: a.newCompiler(gate, jwt.NewCache(tokenCacheEntries, tokenCacheBytes), basic.NewVerifier(limits.ConcurrentChecks), rego.Kind{Cache: remembered}),
		Quotas:   a.newQuotas(observer),
		Shadows:  a.shadows,
		Planner:  &report.Planner{Sinks: a.pipeline.Sinks(), Default: a.settings.Reports.WithDefaults().DefaultSinks},
		Checks:   a.checks,
		Acceptor: a.pipeline,
		Recorder: recorders{a.decisions, a.activity},
		Tracer:   spans,
		Caller:   transport.Caller,
		TooLarge: a.transport.TooLarge,
	}, mixer.HandlerLimits{
		Entries:    limits.Handlers.Entries,
		Bytes:      limits.Handlers.Bytes,
		Compiling:  limits.Handlers.Compiling,
		Waiting:    limits.Handlers.Waiting,
		RetryAfter: limits.Handlers.RetryAfter,
	}, observers{observer, a.activity})
	door.BoundReports(reportLimits(limits.Reports))
	return door
}

// newCompiler returns a compiler of checks. What kinds keep between requests is its own.
func (a *Adapter) newCompiler(gate *policy.Gate, tokens *jwt.Cache, passwords *basic.Verifier, regos rego.Kind) *policy.Compiler {
	regos.Sources, regos.Environment = a.policies, a.environment
	return &policy.Compiler{
		Kinds: []policy.Kind{
			header.Kind{Secrets: secrets{a.secrets}},
			// Before the policies, which see the claims.
			jwt.Kind{KeySets: jwtKeySets{a.keySets}, Cache: tokens},
			apikey.Kind{Secrets: secrets{a.secrets}},
			list.Kind{Sources: a.lists},
			basic.Kind{Files: a.htpasswd, Verifier: passwords},
			regos,
		},
		Timeout: a.settings.EvaluationTimeout,
		Gate:    gate,
	}
}

// newShadows returns what evaluates candidates. They have kinds and a gate of their own: what a kind keeps between requests must not be
// touched by what decides nothing.
func (a *Adapter) newShadows(observer *observe.Observer) *policy.Shadows {
	limits := a.settings.Limits
	compiler := a.newCompiler(policy.NewGate(limits.ShadowChecks, 0), jwt.NewCache(shadowTokenEntries, shadowTokenBytes), basic.NewVerifier(limits.ShadowChecks), rego.Kind{Candidates: true})
	return policy.NewShadows(compiler, limits.Handlers.RetryAfter, shadowObserver{observer, a.decisions})
}

// newQuotas returns the compiler of quotas.
func (a *Adapter) newQuotas(observer *observe.Observer) *policy.Compiler {
	limits := a.settings.Limits
	counts := quota.NewMemory(limits.QuotaCounts)
	observer.CountQuotas(counts.Counts)
	return &policy.Compiler{
		Kinds:   []policy.Kind{quota.Kind{Memory: counts, Stores: a.redis.stores()}},
		Timeout: a.settings.EvaluationTimeout,
		// Its own: those who wait for a Redis that hangs must not keep checks out.
		Gate:  policy.NewGate(limits.ConcurrentChecks, limits.QueueWait),
		Scope: quota.Scope,
	}
}

// Bounds of the cache of verified tokens. Decoded claims take some ten times the bytes of their text.
const (
	tokenCacheEntries = 10_000
	tokenCacheBytes   = 8 << 20
	// Those of candidates, whose checks may be slower.
	shadowTokenEntries = 1000
	shadowTokenBytes   = 1 << 20
)

// reportLimits gives reports a number of calls at once that fits the machine, where the settings leave it open: some are still on their way
// while others are worked on.
func reportLimits(s settings.ReportLimits) mixer.ReportLimits {
	const callsOfProcessor = 8
	return mixer.ReportLimits{Calls: cmp.Or(s.Calls, callsOfProcessor*runtime.GOMAXPROCS(0)), Bytes: s.Bytes, Wait: s.Wait}
}

// shadowObserver counts candidates' decisions and has those recorded that differ.
type shadowObserver struct {
	*observe.Observer
	decisions *decisionlog.Log
}

// Compared records before it counts, so that what is counted is on its way.
func (s shadowObserver) Compared(c *policy.Comparison) {
	s.decisions.RecordShadow(c)
	s.Observer.Compared(c)
}
