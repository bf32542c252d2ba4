package rego_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

// soon is far more than an answer takes after its budget of 20 ms, on a machine that is busy with other things as well, and far
// less than these evaluations would take.
const soon = 30 * time.Second

// Whatever a policy does, the answer comes when the budget ends. OPA's evaluation ends with it, and the place at the gate is free,
// except in built-ins that do not look at the deadline: those end on their own, as each of these does.
func TestLongEvaluations(t *testing.T) {
	t.Parallel()
	request := &policy.Request{Subject: &policy.Subject{User: strings.Repeat("aaaaaaaaab", 2000)}}
	for name, module := range map[string]string{
		"nested iteration":        "allow { count([1 | n := numbers.range(1, 1000); n[a]; n[b]; n[c]]) == 0 }",
		"iteration without bound": "allow { n := numbers.range(1, 100000); n[i] + n[j] == -1 }",
		"function calls":          "f(x) = y { y := [z | z := numbers.range(1, 1000)[_]; z > x] }\nallow { numbers.range(1, 100000)[i]; count(f(i)) < 0 }",
		"numbers.range":           "allow { count(numbers.range(1, 1000000000000)) == 0 }",
		"numbers.range_step":      "allow { count(numbers.range_step(1, 1000000000000, 1)) == 0 }",
		"net.cidr_expand":         `allow { count(net.cidr_expand("::/1")) == 0 }`,
		// These do not look at the deadline.
		"regex.match":           `allow { regex.match("(a*)*(a*)*(a?){40}(a?){40}c", input.subject.user) }`,
		"graph.reachable_paths": "n = numbers.range(1, 13)\ng = {x: ys | x := n[_]; ys := [y | y := n[_]; y > x]}\nallow { count(graph.reachable_paths(g, {1})) == 0 }",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := policy.NewGate(1, 0)
			compiler := policy.Compiler{Kinds: []policy.Kind{rego.Kind{}}, Timeout: 20 * time.Millisecond, Gate: gate}
			p := compiler.Compile(handler(config.RegoV0, "data.p.allow", "package p\n"+module), nil)
			require.Empty(t, p.Problems())
			start := time.Now()
			d := p.Evaluate(t.Context(), request)
			assert.Less(t, time.Since(start), soon)
			require.NotNil(t, d.Failure)
			assert.Equal(t, config.Timeout, d.Failure.Class)
			assert.Equal(t, "failed_closed", d.Outcome())
			assert.Eventually(t, func() bool { return gate.Running() == 0 }, 3*time.Minute, 10*time.Millisecond)
		})
	}
}

// What came of an evaluation that was cut short is no result, not even where it is one that allows.
func TestResultAfterTheDeadline(t *testing.T) {
	t.Parallel()
	check := compile(t, config.RegoV0, "data.p.allow", "package p\nallow = true")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := check.Evaluate(ctx, &policy.Request{})
	require.NotNil(t, v.Failure)
	assert.Equal(t, config.Timeout, v.Failure.Class)
	assert.Equal(t, policy.Failed, v.Result)
}

// faultinjection.test is a fake: a built-in that panics, as none of those that policies have is known to do.
var _ = func() bool {
	const name = "faultinjection.test"
	ast.RegisterBuiltin(&ast.Builtin{Name: name, Decl: types.NewFunction(types.Args(types.A), types.B)})
	topdown.RegisterBuiltinFunc(name, func(topdown.BuiltinContext, []*ast.Term, func(*ast.Term) error) error { panic("on purpose") })
	return true
}()

// A panic in a built-in is a failure of its class, and the next request is answered.
func TestPanicInABuiltin(t *testing.T) {
	t.Parallel()
	compiler := policy.Compiler{Kinds: []policy.Kind{rego.Kind{}}, Timeout: time.Minute, Gate: policy.NewGate(1, time.Minute)}
	p := compiler.Compile(handler(config.RegoV0, "data.p.allow", `package p
default allow = true
allow = false { input.subject.user == "panic"; faultinjection.test(1) }`), nil)
	require.Empty(t, p.Problems())
	for range 3 {
		d := p.Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: "panic"}})
		require.NotNil(t, d.Failure)
		assert.Equal(t, config.Panic, d.Failure.Class)
		assert.Equal(t, "allow", p.Evaluate(t.Context(), &policy.Request{}).Outcome())
	}
}
