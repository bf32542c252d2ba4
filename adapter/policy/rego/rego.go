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

// Kind compiles Rego checks.
type Kind struct {
	// Sources has the policies that handlers name; nil for none.
	Sources Sources
	// Environment says what policies may do beside computing; nil for nothing.
	Environment *Environment
}

// Sources has named policy sources.
type Sources interface {
	// Source returns the source of a name, and false where there is none.
	Source(name string) (*Source, bool)
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
	decision, err := decisionRef(handler.Rego.Decision)
	var problems config.Problems
	if err != nil {
		problems = config.Problems{{Field: "check_method", Text: err.Error()}}
	}
	if handler.Rego.Source != "" {
		return k.compileSourced(handler, decision, problems)
	}
	environment := k.Environment
	if environment == nil {
		environment = NewEnvironment(Options{})
	}
	version := ast.RegoV0
	if handler.Rego.Version == config.RegoV1 {
		version = ast.RegoV1
	}
	modules, found := parse(handler.Rego.Modules, version, environment)
	if problems = append(found, problems...); len(problems) > 0 {
		return nil, problems
	}
	library, problems := newLibrary(modules, version, environment)
	if len(problems) > 0 {
		return nil, problems
	}
	program, problems := newProgram(library, decision)
	if len(problems) > 0 {
		return nil, problems
	}
	return []policy.Check{&check{handler: handler.Name, program: program, denial: handler.Denial}}, nil
}

// check is a handler's Rego check.
type check struct {
	// handler is the handler's name, for what policies print.
	handler string
	program *program
	denial  config.Denial
}

func (c *check) Name() string { return c.program.name }

func (c *check) Cost() policy.Cost { return policy.Compute }

func (c *check) Evaluate(ctx context.Context, request *policy.Request) policy.Verdict {
	value, failure := c.program.evaluate(c.program.forHandler(ctx, c.handler), request)
	if failure != nil {
		return policy.Failing(failure)
	}
	return c.verdict(value)
}
