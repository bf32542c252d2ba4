package rego

import (
	"context"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// library is compiled modules with their data, from which programs are made. It is immutable.
type library struct {
	compiler    *ast.Compiler
	version     ast.RegoVersion
	environment *Environment
	// store has the data. Programs hold it open for reading for ever, so a library never shares it with one that comes after it.
	store storage.Store
}

func newLibrary(modules map[string]*ast.Module, version ast.RegoVersion, environment *Environment) (*library, config.Problems) {
	compiler := ast.NewCompiler().WithCapabilities(environment.capabilities).WithDefaultRegoVersion(version).
		WithEnablePrintStatements(environment.printer != nil)
	compiler.Compile(modules)
	if compiler.Failed() {
		return nil, describe("policy", compiler.Errors)
	}
	return &library{compiler: compiler, version: version, environment: environment, store: inmem.New()}, nil
}

// program is one rule of a library, ready to be evaluated for requests. It is immutable and used by many requests at once.
type program struct {
	// name is the check's, for decisions and logs.
	name string
	// query is the rule, and residual what partial evaluation left of it; nil where that does not serve.
	query, residual *query
	analysis        *Analysis
	projection      *projection
	// prints is whether somebody listens to print.
	prints bool
	// lifetime is what bounds answers that state no lifetime of their own.
	lifetime config.Lifetime
}

// newProgram prepares a rule of the library.
func newProgram(l *library, decision ast.Ref) (*program, config.Problems) {
	if len(l.compiler.GetRules(decision)) == 0 || namesPackage(decision, l.compiler) {
		return nil, config.Problems{{Field: "check_method", Text: fmt.Sprintf(
			"%q names no rule of the policy; the policy's packages are %s", decision, packages(l.compiler))}}
	}
	query, err := newQuery(l, decision)
	if err != nil {
		return nil, describe("check_method", err)
	}
	p := &program{name: "rego/" + label(decision), query: query, prints: l.environment.printer != nil}
	p.analysis = analyse(l.compiler, query.bodies[0])
	if problems := checkInputFields(p.analysis.rules); len(problems) > 0 {
		return nil, problems
	}
	p.projection = newProjection(inputForm{rawIP: l.version == ast.RegoV0}, p.analysis.Reads)
	p.residual, p.analysis.NotPartial = query.partial(l, p.analysis)
	if len(p.analysis.Volatile) > 0 {
		// The same request may be answered differently a moment later, so nobody may reuse this answer unasked.
		p.lifetime = config.SingleUse
	}
	return p, nil
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
