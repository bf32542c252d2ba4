package rego

import (
	"context"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	oparego "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// library is compiled modules with their data, from which programs are made. It is immutable.
type library struct {
	compiler    *ast.Compiler
	version     ast.RegoVersion
	environment *Environment
	// data is never written to; nil for none.
	data storage.Store
}

func newLibrary(modules map[string]*ast.Module, version ast.RegoVersion, environment *Environment) (*library, config.Problems) {
	compiler := ast.NewCompiler().WithCapabilities(environment.capabilities).WithDefaultRegoVersion(version).
		WithEnablePrintStatements(environment.printer != nil)
	compiler.Compile(modules)
	if compiler.Failed() {
		return nil, describe("policy", compiler.Errors)
	}
	return &library{compiler: compiler, version: version, environment: environment}, nil
}

// program is one rule of a library, ready to be evaluated for requests. It is immutable and used by many requests at once.
type program struct {
	// name is the check's, for decisions and logs.
	name  string
	query oparego.PreparedEvalQuery
	// options are those of every evaluation.
	options []oparego.EvalOption
	// prints is whether somebody listens to print.
	prints bool
	input  inputForm
	// lifetime is what bounds answers that state no lifetime of their own.
	lifetime config.Lifetime
}

// newProgram prepares a rule of the library.
func newProgram(l *library, decision ast.Ref) (*program, config.Problems) {
	if len(l.compiler.GetRules(decision)) == 0 || namesPackage(decision, l.compiler) {
		return nil, config.Problems{{Field: "check_method", Text: fmt.Sprintf(
			"%q names no rule of the policy; the policy's packages are %s", decision, packages(l.compiler))}}
	}
	if problems := checkInputFields(l.compiler, decision); len(problems) > 0 {
		return nil, problems
	}
	query := ast.NewBody(ast.NewExpr(ast.NewTerm(decision)))
	// In the OPA of Mixer's adapter an error in a built-in ends the evaluation; later it makes the expression undefined. A policy
	// of that time may rely on the former: `not` of an undefined expression is true.
	options := []func(*oparego.Rego){
		oparego.Compiler(l.compiler), oparego.ParsedQuery(query), oparego.SetRegoVersion(l.version),
		oparego.StrictBuiltinErrors(l.version == ast.RegoV0), oparego.PrintHook(l.environment.printer),
	}
	if l.data != nil {
		options = append(options, oparego.Store(l.data))
	}
	prepared, err := oparego.New(options...).PrepareForEval(context.Background())
	if err != nil {
		return nil, describe("check_method", err)
	}
	p := &program{
		name: "rego/" + label(decision), query: prepared, input: inputForm{rawIP: l.version == ast.RegoV0},
		options: l.environment.evalOptions(), prints: l.environment.printer != nil,
	}
	if volatileBuiltin(l.compiler.Modules) != "" {
		// The same request may be answered differently a moment later, so nobody may reuse this answer unasked.
		p.lifetime = config.SingleUse
	}
	return p, nil
}

// evaluate returns the rule's value for a request.
func (p *program) evaluate(ctx context.Context, request *policy.Request) (any, *policy.Failure) {
	input, failure := p.input.of(request)
	if failure != nil {
		return nil, failure
	}
	results, err := p.query.Eval(ctx, slices.Concat(p.options, []oparego.EvalOption{oparego.EvalParsedInput(input)})...)
	switch {
	case ctx.Err() != nil:
		// Whatever came of an evaluation that was cut short is no result.
		return nil, policy.Fail(config.Timeout, "%s was still running at its deadline", p.name)
	case err != nil:
		return nil, policy.Fail(config.EvaluationError, "%s: %s", p.name, errorCode(err))
	case len(results) == 0:
		return nil, policy.Fail(config.UndefinedResult, "%s is undefined for this request; give it a default", p.name)
	case len(results) > 1 || len(results[0].Expressions) != 1:
		return nil, policy.Fail(config.EvaluationError, "%s has %d results", p.name, len(results))
	}
	return results[0].Expressions[0].Value, nil
}
