package quota

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Scope is the quotas of handlers, which are one check.
var Scope = policy.Scope{
	Count:   func(handler *config.Handler) int { return min(len(handler.Quotas), 1) },
	Missing: "no quota is configured, so nothing could be refused: add quotas",
}

// Reasons of decisions. They are stable.
const (
	ReasonGranted   = "quota_granted"
	ReasonReduced   = "quota_reduced"
	ReasonExhausted = "quota_exhausted"
	ReasonAmount    = "quota_amount_invalid"
)

// Kind compiles quotas.
type Kind struct {
	// Memory keeps the counts of quotas that name no store.
	Memory Store
	// Stores has those that the settings define.
	Stores map[string]Store
}

// Compile makes the quotas of a handler one check.
func (k Kind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	if len(handler.Quotas) == 0 {
		return nil, nil
	}
	var problems config.Problems
	c := &check{cost: policy.Instant}
	for i := range handler.Quotas {
		q := &handler.Quotas[i]
		store := k.Memory
		if q.Store != "" {
			// Somebody else may take his time.
			store, c.cost = k.Stores[q.Store], policy.Compute
		}
		if store == nil {
			problems = append(problems, config.Problem{
				Field: fmt.Sprintf("quotas[%d].store", i), Text: fmt.Sprintf("%q is not defined; add it to redis in the adapter's settings", q.Store),
			})
		}
		c.quotas = append(c.quotas, limited{
			Quota: q, name: "quota/" + q.Name, id: fmt.Sprintf("%s/%d", handler.Fingerprint, i), store: store,
		})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return []policy.Check{c}, nil
}

// check is all quotas of a handler.
type check struct {
	cost   policy.Cost
	quotas []limited
}

// limited is a quota with its store.
type limited struct {
	*config.Quota
	name string
	// id tells the quota from all of all handlers.
	id    string
	store Store
}

// Name returns "quota".
func (c *check) Name() string { return "quota" }

// Cost is that of the dearest store.
func (c *check) Cost() policy.Cost { return c.cost }

// Evaluate takes from the count that the call is about.
func (c *check) Evaluate(ctx context.Context, request *policy.Request) policy.Verdict {
	call := request.Quota
	if call == nil {
		return policy.Failing(policy.Fail(config.ConfigurationFailure, "the call asks for no quota"))
	}
	for i := range c.quotas {
		if c.quotas[i].For(request.Instance) {
			verdict := c.quotas[i].take(ctx, request.Instance, call)
			verdict.Name = c.quotas[i].name
			return verdict
		}
	}
	return policy.Failing(policy.Fail(config.ConfigurationFailure, "no quota is for the instance %.200q: add one to quotas, or take the instance out of the rule", request.Instance))
}

func (l *limited) take(ctx context.Context, instance string, call *policy.Quota) policy.Verdict {
	if call.Amount < 1 {
		return denied(ReasonAmount, config.Lifetime{})
	}
	limit := l.limit(call.Dimensions)
	if limit.Amount == 0 {
		return denied(ReasonExhausted, config.Lifetime{})
	}
	key := countKey(l.id, instance, call.Dimensions, l.Dimensions)
	request := Take{Key: key, Amount: call.Amount, BestEffort: call.BestEffort, Limit: limit, Quota: l.id, MaxKeys: l.MaxKeys}
	if tellsCallsApart(call.DedupID, instance) {
		request.Repeat = repeatKey(key, call.DedupID, call.Amount, call.BestEffort)
	}
	taken, err := l.store.Take(ctx, request)
	if err != nil {
		return policy.Failing(l.failure(ctx, err))
	}
	var lifetime config.Lifetime
	if limit.Refill == 0 {
		// What is left of a window is worth nothing in the next one, which has its own amount.
		lifetime = config.Lifetime{Duration: taken.Rest, Uses: math.MaxInt32}
	}
	if taken.Amount == 0 {
		return denied(ReasonExhausted, lifetime)
	}
	reason := ReasonGranted
	if taken.Amount < call.Amount {
		reason = ReasonReduced
	}
	return policy.Verdict{Result: policy.Passed, Reason: reason, Granted: taken.Amount, Lifetime: lifetime}
}

// limit returns the limit that holds for some dimensions.
func (l *limited) limit(dimensions attribute.Map) config.QuotaLimit {
	for i := range l.Overrides {
		if matches(l.Overrides[i].Dimensions, dimensions) {
			return l.Overrides[i].Limit
		}
	}
	return l.Limit
}

func matches(wanted map[string]string, dimensions attribute.Map) bool {
	for name, text := range wanted {
		value, ok := dimensions.Get(name)
		if !ok || value.Kind() == attribute.Unknown || asText(value) != text {
			return false
		}
	}
	return true
}

// tellsCallsApart reports whether an id is one. Mixer appends the quota's name to what its caller sent, so the name alone is from a
// caller that sent nothing: all its calls would be repeats of the first, and cost nothing.
func tellsCallsApart(id, instance string) bool {
	name, _, _ := strings.Cut(instance, ".instance.")
	return id != "" && !strings.EqualFold(id, name)
}

func (l *limited) failure(ctx context.Context, err error) *policy.Failure {
	if failure, ok := errors.AsType[*policy.Failure](err); ok {
		return failure
	}
	// A store may find that time is over just before the context does.
	if deadline, ok := ctx.Deadline(); ctx.Err() != nil || ok && !time.Now().Before(deadline) {
		return policy.Fail(config.Timeout, "%s took longer than its budget: %v", l.name, err)
	}
	return policy.Fail(config.DependencyDown, "%s: store %s: %v", l.name, l.Store, err)
}

// exhausted is the answer to who speaks to us without Mixer, which passes on nothing but the amount.
var exhausted = config.Denial{Code: config.ResourceExhausted, Message: "the quota is exhausted"}

func denied(reason string, lifetime config.Lifetime) policy.Verdict {
	return policy.Verdict{Result: policy.Denied, Reason: reason, Denial: &exhausted, Lifetime: lifetime}
}
