package policy_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// What every check that was asked said is kept, in the order in which they were asked.
func TestFindings(t *testing.T) {
	t.Parallel()
	failure := policy.Fail(openClass, "planted detail")
	var (
		pass  = gives("pass", policy.Compute, policy.Pass("fine"))
		deny  = gives("deny", policy.Compute, policy.Deny("no"))
		fail  = gives("fail", policy.Compute, policy.Failing(failure))
		cheap = gives("cheap", policy.Instant, policy.Pass("listed"))
		none  = gives("none", policy.Instant, policy.Verdict{})

		passed   = policy.Finding{Check: "pass", Result: policy.Passed, Reason: "fine"}
		denied   = policy.Finding{Check: "deny", Result: policy.Denied, Reason: "no"}
		failed   = policy.Finding{Check: "fail", Result: policy.Failed, Reason: "timeout", Failure: failure}
		cheapest = policy.Finding{Check: "cheap", Result: policy.Passed, Reason: "listed"}
	)
	for name, test := range map[string]struct {
		require config.Require
		checks  []policy.Check
		want    []policy.Finding
	}{
		"one":                             {config.All, []policy.Check{pass}, nil},
		"one that fails":                  {config.Any, []policy.Check{fail}, nil},
		"the first is enough":             {config.All, []policy.Check{deny, pass, fail}, nil},
		"the first is enough, of any":     {config.Any, []policy.Check{pass, deny}, nil},
		"all that were asked":             {config.All, []policy.Check{pass, fail, deny, pass}, []policy.Finding{passed, failed, denied}},
		"all that were asked, of any":     {config.Any, []policy.Check{deny, fail, pass, deny}, []policy.Finding{denied, failed, passed}},
		"cheap ones first":                {config.All, []policy.Check{pass, cheap}, []policy.Finding{cheapest, passed}},
		"the same twice":                  {config.All, []policy.Check{pass, pass}, []policy.Finding{passed, passed}},
		"a verdict that is none, flagged": {config.All, []policy.Check{none, cheap}, []policy.Finding{{Check: "none", Reason: "evaluation_error"}, cheapest}},
	} {
		h := handler()
		h.Require = test.require
		d := compile(h, test.checks...).Evaluate(context.Background(), &policy.Request{})
		if len(test.want) > 0 && test.want[0].Check == "none" {
			test.want[0].Failure = d.Failure
		}
		assert.Equal(t, test.want, d.Findings, name)
		assert.NotContains(t, d.Message, "planted", "the caller sees nothing of it")
	}
	for result, word := range map[policy.Result]string{policy.Passed: "passed", policy.Denied: "denied", policy.Failed: "failed", 77: "failed"} {
		assert.Equal(t, word, result.String())
	}
}

// One check, and a denial by the first of several, cost no memory beyond the verdict's own; several cost one piece.
func TestFindingsAllocate(t *testing.T) { //nolint:paralleltest // it counts allocations
	pass, deny := gives("pass", policy.Instant, policy.Pass("")), gives("deny", policy.Instant, policy.Deny(""))
	for want, checks := range map[int][]policy.Check{0: {deny, pass, pass}, 1: {pass, pass, deny, pass}} {
		p := compile(handler(), checks...)
		request := &policy.Request{}
		assert.Equal(t, want, int(testing.AllocsPerRun(100, func() { p.Evaluate(context.Background(), request) })), "%v", p.Checks())
	}
}
