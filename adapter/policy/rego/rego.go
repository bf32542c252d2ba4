// Package rego checks requests with Rego policies, evaluated by an embedded Open Policy Agent.
//
// The input is the one that Mixer's built-in opa adapter makes: input.subject and input.action, empty fields left out, groups
// as a list of one. Where a token was verified, input.token has its claims. The deciding rule yields a bool or a result object; see [Kind].
package rego

import (
	"context"
	"runtime"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Kind compiles Rego checks.
type Kind struct {
	// Sources has the policies that handlers name; nil for none.
	Sources Sources
	// Environment says what policies may do beside computing; nil for nothing.
	Environment *Environment
	// Cache bounds what policies remember; nil for nothing.
	Cache *Cache
	// Candidates is whether it compiles what decides nothing, and so must not share what follows a source with what decides.
	Candidates bool
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
	opaVersion := version(handler.Rego.Version)
	modules, found := parse(handler.Rego.Modules, opaVersion, environment)
	if problems = append(found, problems...); len(problems) > 0 {
		return nil, problems
	}
	library, problems := newLibrary(modules, opaVersion, environment)
	if len(problems) > 0 {
		return nil, problems
	}
	program, problems := newProgram(library, decision)
	if len(problems) > 0 {
		return nil, problems
	}
	return []policy.Check{newCheck(handler.Name, program, handler.Denial, k.Cache)}, nil
}

// check is a handler's Rego check by one program. It is immutable but for the answers that it remembers.
type check struct {
	// handler is the handler's name, for what policies print.
	handler string
	program *program
	denial  config.Denial
	// memory is nil where nothing is remembered.
	memory *memory
}

// newCheck makes a check. A nil cache remembers nothing.
func newCheck(handler string, program *program, denial config.Denial, cache *Cache) *check {
	return &check{handler: handler, program: program, denial: denial, memory: cache.newMemory(program)}
}

func (c *check) Name() string { return c.program.name }

func (c *check) Cost() policy.Cost { return policy.Compute }

func (c *check) Evaluate(ctx context.Context, request *policy.Request) policy.Verdict {
	value, failure := c.program.evaluate(c.program.forHandler(ctx, c.handler), request)
	if failure != nil {
		return policy.Failing(failure)
	}
	verdict := c.verdict(value)
	c.remember(request, verdict)
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
	if c.memory == nil || unreadable(request) != nil {
		return policy.Verdict{}, false
	}
	var short [256]byte
	key, ok := c.program.projection.appendKey(short[:0], request)
	if !ok {
		return policy.Verdict{}, false
	}
	v, ok := c.memory.get(string(key))
	v.Remembered = ok
	return v, ok
}

// remember keeps the answer to a request. Failures are none.
func (c *check) remember(request *policy.Request, v policy.Verdict) {
	if c.memory == nil || v.Result == policy.Failed {
		return
	}
	if key, ok := c.program.projection.appendKey(nil, request); ok {
		c.memory.add(string(key), v)
		runtime.KeepAlive(c.memory) // what is forgotten takes in nothing after
	}
}
