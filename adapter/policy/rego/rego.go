// Package rego checks requests with Rego policies, evaluated by an embedded Open Policy Agent.
//
// The input is the one that Mixer's built-in opa adapter makes: input.subject and input.action, empty fields left out, groups
// as a list of one. The deciding rule yields a bool or a result object; see [Kind].
package rego

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	oparego "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Kind compiles Rego checks. Built-ins that reach the network or read the process are not available to policies: a policy
// that names one does not compile.
type Kind struct{}

// The reasons of Rego verdicts whose policy gives none of its own.
const (
	ReasonAllow = "policy_allow"
	ReasonDeny  = "policy_deny"
)

// unavailable built-ins: they send requests on a caller's behalf, wait on the network, or show the process's environment.
var unavailable = map[string]bool{"http.send": true, "net.lookup_ip_addr": true, "opa.runtime": true}

func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	kept := c.Builtins[:0:0]
	for _, b := range c.Builtins {
		if !unavailable[b.Name] {
			kept = append(kept, b)
		}
	}
	c.Builtins = kept
	c.AllowNet = []string{}
	return c
}

// Compile returns the handler's Rego check, if it has one.
func (Kind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	if handler.Rego == nil {
		return nil, nil
	}
	version := ast.RegoV0
	if handler.Rego.Version == config.RegoV1 {
		version = ast.RegoV1
	}
	caps := capabilities()
	modules, problems := parse(handler.Rego.Modules, version, caps)
	decision, err := decisionRef(handler.Rego.Decision)
	if err != nil {
		problems = append(problems, config.Problem{Field: "check_method", Text: err.Error()})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	compiler := ast.NewCompiler().WithCapabilities(caps).WithDefaultRegoVersion(version)
	compiler.Compile(modules)
	if compiler.Failed() {
		return nil, describe("policy", compiler.Errors)
	}
	if len(compiler.GetRules(decision)) == 0 {
		return nil, config.Problems{{Field: "check_method", Text: fmt.Sprintf(
			"%q names no rule of the policy; the policy's packages are %s", handler.Rego.Decision, packages(compiler))}}
	}
	query := ast.NewBody(ast.NewExpr(ast.NewTerm(decision)))
	prepared, err := oparego.New(oparego.Compiler(compiler), oparego.ParsedQuery(query), oparego.SetRegoVersion(version)).
		PrepareForEval(context.Background())
	if err != nil {
		return nil, config.Problems{{Field: "policy", Text: "cannot be prepared (" + errorCode(err) + "); check that it compiles with `opa check`"}}
	}
	c := &check{name: "rego/" + label(handler.Rego.Decision), query: prepared, denial: handler.Denial}
	if name := volatileBuiltin(compiler.Modules); name != "" {
		// The same request may be answered differently a moment later, so nobody may reuse this answer unasked.
		c.lifetime = config.SingleUse
	}
	return []policy.Check{c}, nil
}

func parse(sources []string, version ast.RegoVersion, caps *ast.Capabilities) (map[string]*ast.Module, config.Problems) {
	modules := make(map[string]*ast.Module, len(sources))
	var problems config.Problems
	for i, source := range sources {
		name := fmt.Sprintf("policy[%d]", i)
		module, err := ast.ParseModuleWithOpts(name, source, ast.ParserOptions{RegoVersion: version, Capabilities: caps})
		switch {
		case err != nil:
			problems = append(problems, describe(name, err)...)
		case module == nil:
			problems = append(problems, config.Problem{Field: name, Text: "has no package; write a Rego module"})
		default:
			modules[name] = module
		}
	}
	return modules, problems
}

func decisionRef(method string) (ast.Ref, error) {
	ref, err := ast.ParseRef(method)
	if err != nil || len(ref) < 2 || !ref.HasPrefix(ast.DefaultRootRef) || !ref.IsGround() {
		return nil, fmt.Errorf("%q is no reference to a rule; write data.<package>.<rule>, such as data.mixerauthz.allow", method)
	}
	return ref, nil
}

func packages(compiler *ast.Compiler) string {
	names := make([]string, 0, len(compiler.Modules))
	for _, module := range compiler.Modules {
		names = append(names, strings.TrimPrefix(module.Package.String(), "package "))
	}
	return strings.Join(names, ", ")
}

func label(method string) string {
	const most = 48
	method = strings.TrimPrefix(method, "data.")
	if len(method) > most {
		method = method[:most]
	}
	return method
}

// literals are string constants in OPA's messages. A policy may hold a credential, and messages go to logs.
var literals = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"?|`[^`]*`?")

// describe turns OPA's errors into problems: code, place and message, without the source line that OPA would show.
func describe(field string, err error) config.Problems {
	var list ast.Errors
	if !errors.As(err, &list) {
		var single *ast.Error
		if !errors.As(err, &single) {
			return config.Problems{{Field: field, Text: "does not parse; check it with `opa check`"}}
		}
		list = ast.Errors{single}
	}
	problems := make(config.Problems, 0, len(list))
	for _, e := range list {
		place := field
		if e.Location != nil {
			place = fmt.Sprintf("%s:%d:%d", e.Location.File, e.Location.Row, e.Location.Col)
		}
		problems = append(problems, config.Problem{
			Field: place,
			Text:  e.Code + ": " + literals.ReplaceAllString(strings.Join(strings.Fields(e.Message), " "), `"…"`),
		})
	}
	return problems
}

// errorCode names an evaluation error by code and place; its message may show values of the request.
func errorCode(err error) string {
	var e *topdown.Error
	if !errors.As(err, &e) {
		return fmt.Sprintf("%T", err)
	}
	if e.Location == nil {
		return e.Code
	}
	return fmt.Sprintf("%s at %s:%d", e.Code, e.Location.File, e.Location.Row)
}

type check struct {
	name   string
	query  oparego.PreparedEvalQuery
	denial config.Denial
	// lifetime is what bounds answers that state no lifetime of their own.
	lifetime config.Lifetime
}

func (c *check) Name() string { return c.name }

func (c *check) Cost() policy.Cost { return policy.Compute }

func (c *check) Evaluate(ctx context.Context, request *policy.Request) policy.Verdict {
	input, failure := inputOf(request)
	if failure != nil {
		return policy.Failing(failure)
	}
	results, err := c.query.Eval(ctx, oparego.EvalParsedInput(input))
	switch {
	case ctx.Err() != nil:
		// Whatever came of an evaluation that was cut short is no result.
		return policy.Failing(policy.Fail(config.Timeout, "%s was still running at its deadline", c.name))
	case err != nil:
		return policy.Failing(policy.Fail(config.EvaluationError, "%s: %s", c.name, errorCode(err)))
	case len(results) == 0:
		return policy.Failing(policy.Fail(config.UndefinedResult, "%s is undefined for this request; give it a default", c.name))
	case len(results) > 1 || len(results[0].Expressions) != 1:
		return policy.Failing(policy.Fail(config.EvaluationError, "%s has %d results", c.name, len(results)))
	}
	return c.verdict(results[0].Expressions[0].Value)
}
