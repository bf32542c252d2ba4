package observe_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
)

func TestPolicies(t *testing.T) {
	t.Parallel()
	o, _ := newObserver(t, "error")
	o.CountPolicies(func() map[string]rego.Stats {
		return map[string]rego.Stats{
			"shop":    {Revision: "v7", Age: time.Minute, Rules: 3, Behind: 1, Accepted: 5, Rejected: 2, Err: errors.New("planted")},
			"company": {},
		}
	})
	assert.Equal(t, map[string]int{"revision=v7,source=shop": 1}, samples(t, o, "tollgate_policy_revision_info"))
	assert.Equal(t, map[string]int{"source=shop": 60}, samples(t, o, "tollgate_policy_age_seconds"))
	assert.Equal(t, map[string]int{"source=shop": 1, "source=company": 0}, samples(t, o, "tollgate_policy_failing"))
	assert.Equal(t, map[string]int{
		"source=shop,state=current": 2, "source=shop,state=behind": 1, "source=company,state=current": 0, "source=company,state=behind": 0,
	}, samples(t, o, "tollgate_policy_rules"))
	assert.Equal(t, map[string]int{
		"result=ok,source=shop": 5, "result=failed,source=shop": 2, "result=ok,source=company": 0, "result=failed,source=company": 0,
	}, samples(t, o, "tollgate_policy_reads_total"))
}

// A policy that prints for every request must not fill the disk, and whoever reads the log sees that there was more.
func TestPrintedIsBounded(t *testing.T) {
	t.Parallel()
	o, written := newObserver(t, "debug")
	for range 10_000 {
		o.Printed(rego.Printed{Handler: "shop", Place: "a.rego:3:5", Text: "hello"})
	}
	lines := lines(t, written)
	assert.GreaterOrEqual(t, len(lines), 100)
	assert.Less(t, len(lines), 5_000)
	assert.Equal(t, map[string]any{
		"level": "DEBUG", "msg": "a policy prints", "handler": "shop", "place": "a.rego:3:5", "text": "hello", "left_out_before": 0.0,
	}, lines[0])
}
