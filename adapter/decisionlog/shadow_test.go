package decisionlog_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/decisionlog"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Several checks are all in the record.
func TestFindingsAreRecorded(t *testing.T) {
	a := &acceptor{}
	log := decisionlog.New(a, decisionlog.Options{})
	end := run(log)
	d := deny
	d.Findings = []policy.Finding{
		{Check: "header/key", Result: policy.Passed, Reason: "header_match"},
		{Check: "rego", Result: policy.Failed, Reason: "timeout", Failure: policy.Fail(config.Timeout, "planted")},
		{Check: "jwt/token", Result: policy.Denied},
	}
	log.Record("", handler(config.DecisionLog{Record: config.RecordAll}), request, d, 0)
	log.Record("", handler(config.DecisionLog{Record: config.RecordAll}), request, deny, 0)
	end()
	records := a.records(t)
	assert.JSONEq(t, `[
		{"check": "header/key", "result": "passed", "reason": "header_match"},
		{"check": "rego", "result": "failed", "reason": "timeout", "class": "timeout"},
		{"check": "jwt/token", "result": "denied"}
	]`, records[0].Checks)
	assert.Empty(t, records[1].Checks)
	assert.Empty(t, records[0].Shadow)
}

// What a candidate would have answered otherwise is recorded wherever anything is, with the input masked as its handler and the
// candidate's own checks demand.
func TestShadowsAreRecorded(t *testing.T) {
	candidate := deny
	candidate.Check, candidate.Revision = "header/token", "c"
	failed := policy.Fail(config.Timeout, "planted").Resolve(config.Modes{})
	failed.Findings = []policy.Finding{{Check: "a", Result: policy.Passed}, {Check: "b", Result: policy.Failed, Failure: failed.Failure}}
	asked := &policy.Request{Instance: "i", Subject: &policy.Subject{Properties: attribute.Map{
		{Name: "key", Value: attribute.OfText(attribute.String, "planted")},
		{Name: "token", Value: attribute.OfText(attribute.String, "planted")},
		{Name: "password", Value: attribute.OfText(attribute.String, "planted")},
		{Name: "user", Value: attribute.OfText(attribute.String, "planted")},
		{Name: "plan", Value: attribute.OfText(attribute.String, "gold")},
	}}}
	for recording, want := range map[config.Recording]int{config.RecordNone: 0, config.RecordDenials: 2, config.RecordSampled: 2, config.RecordAll: 2} {
		h := handler(config.DecisionLog{Record: recording, SampleOneIn: 1_000_000, Mask: []string{"user"}, Sinks: []string{"audit"}})
		h.Headers = []config.HeaderCheck{{Property: config.Property{Name: "key"}}}
		h.Shadow = &config.Shadow{Candidate: &config.Handler{Headers: []config.HeaderCheck{{Property: config.Property{Name: "token"}}}, Basic: []config.BasicCheck{{Property: config.Property{Name: "password"}}}}}
		a := &acceptor{}
		log := decisionlog.New(a, decisionlog.Options{Sinks: []string{"audit"}})
		end := run(log)
		decided := allow
		decided.ID = "known"
		log.RecordShadow(&policy.Comparison{
			Caller: "mixer", Handler: h, Request: asked, Decided: decided, DecidedIn: time.Millisecond,
			Candidate: candidate, CandidateIn: 2 * time.Millisecond, Divergence: policy.WouldDeny,
		})
		log.RecordShadow(&policy.Comparison{Handler: h, Request: asked, Decided: allow, Candidate: failed, Divergence: policy.WouldFail})
		log.RecordShadow(&policy.Comparison{Handler: h, Request: asked, Decided: allow, Candidate: allow, Divergence: policy.Agrees})
		end()
		records := a.records(t)
		require.Len(t, records, want, recording)
		if want == 0 {
			continue
		}
		if records[0].ID != "known" { // records of several callers are handed over apart
			records[0], records[1] = records[1], records[0]
		}
		for _, call := range a.calls {
			assert.Equal(t, []string{"audit"}, call.Sinks)
		}
		first := records[0]
		assert.Equal(t, "known", first.ID, "it is about the decision that has this id")
		assert.Equal(t, "allow", first.Outcome)
		assert.Equal(t, "r", first.Revision)
		assert.Equal(t, time.Millisecond, first.Latency)
		assert.JSONEq(t, `{"subject": {"properties": {"key": "***", "token": "***", "password": "***", "user": "***", "plan": "gold"}}}`, first.Input)
		assert.JSONEq(t, `{"divergence": "would_deny", "outcome": "deny", "code": "PERMISSION_DENIED", "check": "header/token",
			"reason": "header_mismatch", "revision": "c", "latency_seconds": 0.002}`, first.Shadow)
		assert.Regexp(t, "^[a-z2-7]{16}$", records[1].ID)
		assert.JSONEq(t, `{"divergence": "would_fail", "outcome": "failed_closed", "code": "UNAVAILABLE", "reason": "timeout", "class": "timeout",
			"revision": "", "latency_seconds": 0, "checks": [{"check": "a", "result": "passed"}, {"check": "b", "result": "failed", "class": "timeout"}]}`,
			records[1].Shadow)
	}
	log := decisionlog.New(&acceptor{}, decisionlog.Options{})
	log.RecordShadow(&policy.Comparison{Handler: handler(config.DecisionLog{Record: config.RecordAll}), Divergence: policy.WouldDeny})
	assert.Equal(t, uint64(1), log.Stats().Refused, "a comparison that cannot be written costs its record alone")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	log.Run(ctx)
}
