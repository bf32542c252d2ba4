package rego

import (
	"context"
	"fmt"
	"runtime"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// library is compiled modules and data, from which programs are made. It is immutable.
type library struct {
	compiler *ast.Compiler
	version  ast.RegoVersion
	// store has the data. Programs hold it open for reading for ever, so a library never shares it with one that comes after it.
	store storage.Store
}

func newLibrary(modules map[string]*ast.Module, version ast.RegoVersion, caps *ast.Capabilities) (*library, config.Problems) {
	compiler := ast.NewCompiler().WithCapabilities(caps).WithDefaultRegoVersion(version)
	compiler.Compile(modules)
	if compiler.Failed() {
		return nil, describe("policy", compiler.Errors)
	}
	return &library{compiler: compiler, version: version, store: inmem.New()}, nil
}

// program is one rule of a library for one handler, ready to be evaluated for requests. It is used by many requests at once, and immutable
// but for the answers that it remembers.
type program struct {
	// name is the check's, for decisions and logs.
	name string
	// query is the rule, and residual what partial evaluation left of it; nil where that does not serve.
	query, residual *query
	analysis        *Analysis
	projection      *projection
	// answers are nil where none is remembered.
	answers *answers
	// lifetime is what bounds answers that state no lifetime of their own.
	lifetime config.Lifetime
}

// newProgram prepares a rule of the library. A nil cache remembers nothing.
func newProgram(l *library, decision ast.Ref, cache *Cache) (*program, config.Problems) {
	if len(l.compiler.GetRules(decision)) == 0 || namesPackage(decision, l.compiler) {
		return nil, config.Problems{{Field: "check_method", Text: fmt.Sprintf(
			"%q names no rule of the policy; the policy's packages are %s", decision, packages(l.compiler))}}
	}
	query, err := newQuery(l, decision)
	if err != nil {
		return nil, describe("check_method", err)
	}
	p := &program{name: "rego/" + label(decision), query: query}
	p.analysis = analyse(l.compiler, query.bodies[0])
	p.projection = newProjection(inputForm{rawIP: l.version == ast.RegoV0}, p.analysis.Reads)
	p.residual, p.analysis.NotPartial = query.partial(l, p.analysis)
	if len(p.analysis.Volatile) > 0 {
		// The same request may be answered differently a moment later, so nobody may reuse this answer unasked.
		p.lifetime = config.SingleUse
	}
	if cache != nil && p.analysis.Rememberable() {
		p.answers = cache.newAnswers()
		runtime.AddCleanup(p, (*answers).forget, p.answers)
	}
	return p, nil
}

// remembered returns the answer to an earlier request that had the same in all that the program reads.
func (p *program) remembered(request *policy.Request) (policy.Verdict, bool) {
	if p.answers == nil || unreadable(request) != nil {
		return policy.Verdict{}, false
	}
	var short [256]byte
	key, ok := p.projection.appendKey(short[:0], request)
	if !ok {
		return policy.Verdict{}, false
	}
	return p.answers.get(string(key))
}

// remember keeps the answer to a request. Failures are none.
func (p *program) remember(request *policy.Request, v policy.Verdict) {
	if p.answers == nil || v.Result == policy.Failed {
		return
	}
	if key, ok := p.projection.appendKey(nil, request); ok {
		p.answers.add(string(key), v)
	}
}

// evaluate returns the rule's value for a request.
func (p *program) evaluate(ctx context.Context, request *policy.Request) (any, *policy.Failure) {
	if failure := unreadable(request); failure != nil {
		return nil, failure
	}
	input, failure := p.projection.input(request)
	if failure != nil {
		return nil, failure
	}
	var value ast.Value
	var err error
	if p.residual != nil {
		value, err = p.residual.eval(ctx, input)
	}
	if p.residual == nil || err != nil {
		// What went wrong in the residual is for the rule itself to say.
		value, err = p.query.eval(ctx, input)
	}
	switch {
	case ctx.Err() != nil:
		// Whatever came of an evaluation that was cut short is no result.
		return nil, policy.Fail(config.Timeout, "%s was still running at its deadline", p.name)
	case err != nil:
		return nil, policy.Fail(config.EvaluationError, "%s: %s", p.name, errorCode(err))
	case value == nil:
		return nil, policy.Fail(config.UndefinedResult, "%s is undefined for this request; give it a default", p.name)
	}
	if b, ok := value.(ast.Boolean); ok {
		return bool(b), nil
	}
	result, err := ast.JSON(value)
	if err != nil {
		return nil, policy.Fail(config.EvaluationError, "%s has a value that JSON does not know", p.name)
	}
	return result, nil
}
