// Package rego checks requests with Rego policies, evaluated by an embedded Open Policy Agent.
//
// The input is the one that Mixer's built-in opa adapter makes: input.subject and input.action, empty fields left out, groups
// as a list of one. Where a token was verified, input.token has its claims. The deciding rule yields a bool or a result object; see [Kind].
package rego

import (
	"context"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Kind compiles Rego checks. Built-ins that reach the network or read the process are not available to policies: a policy
// that names one does not compile.
type Kind struct {
	// Cache bounds what policies remember; nil for nothing.
	Cache *Cache
}

// The reasons of Rego verdicts whose policy gives none of its own.
const (
	ReasonAllow = "policy_allow"
	ReasonDeny  = "policy_deny"
)

// Compile returns the handler's Rego check, if it has one.
func (k Kind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	if handler.Rego == nil {
		return nil, nil
	}
	version, caps := opaVersion(handler.Rego.Version), capabilities()
	modules, problems := parse(handler.Rego.Modules, version, caps)
	decision, err := decisionRef(handler.Rego.Decision)
	if err != nil {
		problems = append(problems, config.Problem{Field: "check_method", Text: err.Error()})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	library, problems := newLibrary(modules, version, caps)
	if len(problems) > 0 {
		return nil, problems
	}
	program, problems := newProgram(library, decision, k.Cache)
	if len(problems) > 0 {
		return nil, problems
	}
	return []policy.Check{&check{program: program, denial: handler.Denial}}, nil
}

func opaVersion(version config.RegoVersion) ast.RegoVersion {
	if version == config.RegoV1 {
		return ast.RegoV1
	}
	return ast.RegoV0
}

// check is a handler's Rego check.
type check struct {
	program *program
	denial  config.Denial
}

func (c *check) Name() string { return c.program.name }

func (c *check) Cost() policy.Cost { return policy.Compute }

func (c *check) Evaluate(ctx context.Context, request *policy.Request) policy.Verdict {
	value, failure := c.program.evaluate(ctx, request)
	if failure != nil {
		return policy.Failing(failure)
	}
	verdict := c.verdict(value)
	c.program.remember(request, verdict)
	return verdict
}

// ReadsEverything names the constructs that make the policy read the whole input; see [policy.Wide].
func (c *check) ReadsEverything() []string {
	found := c.program.analysis
	if !found.ReadsEverything() {
		return nil
	}
	because := make([]string, 0, len(found.Widened))
	for _, widened := range found.Widened {
		because = append(because, widened.String())
	}
	return because
}

// Recall returns the verdict on an earlier request that had the same in all that the policy reads; see [policy.Recaller].
func (c *check) Recall(request *policy.Request) (policy.Verdict, bool) {
	v, ok := c.program.remembered(request)
	v.Remembered = ok
	return v, ok
}
