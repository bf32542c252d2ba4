package observe_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestShadowsAreCountedAndLogged(t *testing.T) {
	t.Parallel()
	o, written := newObserver(t, "debug")
	comparison := &policy.Comparison{
		Handler: shop, Request: &policy.Request{Instance: "i", Identity: "planted"}, Divergence: policy.WouldDeny,
		Candidate: policy.Decision{Code: config.PermissionDenied, Message: "planted", Check: "b", Reason: "no", Revision: "c", Findings: []policy.Finding{
			{Check: "a", Result: policy.Passed, Reason: "yes"}, {Check: "b", Result: policy.Denied, Reason: "no"},
		}},
		CandidateIn: time.Millisecond,
	}
	o.Compared(comparison)
	assert.Equal(t, []map[string]any{{
		"level": "DEBUG", "msg": "shadow decision", "handler": "shop", "instance": "i", "divergence": "would_deny", "decided": "allow", "outcome": "deny",
		"code": "PERMISSION_DENIED", "check": "b", "reason": "no", "checks": []any{"a passed yes", "b denied no"},
		"valid_duration": "0s", "valid_use_count": 0.0, "revision": "c", "elapsed": "1ms",
	}}, lines(t, written))
	agrees := *comparison
	agrees.Divergence = policy.Agrees
	o.Compared(&agrees)
	o.Compared(&agrees)
	o.NotCompared(shop, policy.ShadowBusy)
	assert.Equal(t, map[string]int{"divergence=would_deny,handler=shop": 1, "divergence=agree,handler=shop": 2}, samples(t, o, "tollgate_shadow_decisions_total"))
	assert.Equal(t, map[string]int{"handler=shop,reason=busy": 1}, samples(t, o, "tollgate_shadow_not_compared_total"))
}

func TestCandidatesAreLogged(t *testing.T) {
	t.Parallel()
	o, written := newObserver(t, "info")
	named := *shop
	named.Headers = []config.HeaderCheck{{Name: "planted"}}
	compiler := &policy.Compiler{Kinds: []policy.Kind{check{}}}
	o.CandidateCompiled(compiler.Compile(&named, nil), time.Millisecond)
	assert.Equal(t, []map[string]any{{
		"level": "INFO", "msg": "candidate compiled", "handler": "shop", "fingerprint": "0123456789ab", "checks": []any{"stub"},
		"modes": "all closed", "elapsed": "1ms",
	}}, lines(t, written))
	for range 3 {
		o.CandidateCompiled(compiler.Compile(&named, config.Problems{{Field: "shadow.candidate.headers", Text: "b"}}), time.Millisecond)
	}
	assert.Equal(t, []map[string]any{{
		"level": "WARN", "msg": "a candidate cannot be evaluated; its handler decides as before", "handler": "shop", "class": "configuration",
		"detail": "shadow.candidate.headers: b", "like_this_since_last_line": 0.0,
	}}, lines(t, written))
	o.Compared(&policy.Comparison{Handler: shop, Request: &policy.Request{}})
	assert.Empty(t, lines(t, written), "nothing of single decisions at info")
}
