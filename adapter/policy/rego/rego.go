// Package rego checks requests with Rego policies, evaluated by an embedded Open Policy Agent.
//
// The input is the one that Mixer's built-in opa adapter makes: input.subject and input.action, empty fields left out, groups
// as a list of one. Where a token was verified, input.token has its claims. The deciding rule yields a bool or a result object; see [Kind].
package rego

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
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

// unavailable built-ins, by name or by everything below a name: they send requests on a caller's behalf, wait on the network, or
// show the process's environment. Those for JSON schemas follow a $ref to a file, whatever capabilities say, and their errors show
// what it holds. The last three can end the process, by memory or by stack, with a single argument that a caller may choose.
var unavailable = []string{"http.send", "net.lookup_ip_addr", "opa.runtime", "json.match_schema", "json.verify_schema", "bits.lsh", "graphql.", "rego.parse_module"}

func isUnavailable(builtin string) bool {
	return slices.ContainsFunc(unavailable, func(name string) bool {
		return builtin == name || strings.HasSuffix(name, ".") && strings.HasPrefix(builtin, name)
	})
}

func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	kept := c.Builtins[:0:0]
	for _, b := range c.Builtins {
		if !isUnavailable(b.Name) {
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
	if len(compiler.GetRules(decision)) == 0 || namesPackage(decision, compiler) {
		return nil, config.Problems{{Field: "check_method", Text: fmt.Sprintf(
			"%q names no rule of the policy; the policy's packages are %s", handler.Rego.Decision, packages(compiler))}}
	}
	query := ast.NewBody(ast.NewExpr(ast.NewTerm(decision)))
	// In the OPA of Mixer's adapter an error in a built-in ends the evaluation; later it makes the expression undefined. A policy
	// of that time may rely on the former: `not` of an undefined expression is true.
	prepared, err := oparego.New(oparego.Compiler(compiler), oparego.ParsedQuery(query), oparego.SetRegoVersion(version),
		oparego.StrictBuiltinErrors(handler.Rego.Version == config.RegoV0)).
		PrepareForEval(context.Background())
	if err != nil {
		return nil, describe("check_method", err)
	}
	c := &check{
		name:   "rego/" + label(decision),
		query:  prepared,
		denial: handler.Denial,
		input:  inputForm{rawIP: handler.Rego.Version == config.RegoV0},
	}
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
		if strings.Count(source, `$"`)+strings.Count(source, "$`") > maxTemplates {
			problems = append(problems, config.Problem{Field: name, Text: fmt.Sprintf(
				"has more than %d template strings, and the parser takes memory for each beyond measure; use sprintf or split the module", maxTemplates)})
			continue
		}
		module, err := ast.ParseModuleWithOpts(name, source, ast.ParserOptions{RegoVersion: version, Capabilities: caps})
		switch {
		case err != nil:
			problems = append(problems, describe(name, err)...)
		case module == nil:
			problems = append(problems, config.Problem{Field: name, Text: "has no package; write a Rego module"})
		case nesting(module) > maxNesting:
			problems = append(problems, config.Problem{Field: name, Text: fmt.Sprintf(
				"nests comprehensions or template strings more than %d deep, and each level takes the compiler twice as long; split them into rules", maxNesting)})
		default:
			modules[name] = module
		}
	}
	return modules, problems
}

// maxTemplates bounds what starts a template string. Some hundred thousand of them in a megabyte end the process in OPA's parser.
const maxTemplates = 1000

// maxNesting is far beyond what policies need and takes milliseconds to compile. Twice as much takes minutes, in which no other
// handler could be compiled.
const maxNesting = 8

// nesting returns how deep a node nests comprehensions and template strings below itself.
func nesting(node any) int {
	deepest := 0
	ast.NewGenericVisitor(func(x any) bool {
		switch x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.TemplateString:
			if x != node {
				deepest = max(deepest, 1+nesting(x))
				return true
			}
		}
		return false
	}).Walk(node)
	return deepest
}

// method is a ground reference below data. OPA's own parser would take more, and leave out what it does not need: a `with`, say.
var method = regexp.MustCompile("^\\s*data(?:\\.[A-Za-z_][A-Za-z0-9_]*|\\[(?:\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`|[0-9]+)\\])+\\s*$")

func decisionRef(text string) (ast.Ref, error) {
	if method.MatchString(text) {
		if ref, err := ast.ParseRef(text); err == nil && ref.HasPrefix(ast.DefaultRootRef) && ref.IsGround() {
			return ref, nil
		}
	}
	return nil, fmt.Errorf("%q is no reference to a rule; write data.<package>.<rule>, such as data.mixerauthz.allow", text)
}

// namesPackage reports whether the reference ends at a package or above it. Such a document has all rules of the package as its
// members, and would be read as a result object if one of them is called allow.
func namesPackage(ref ast.Ref, compiler *ast.Compiler) bool {
	for _, module := range compiler.Modules {
		if module.Package.Path.HasPrefix(ref) {
			return true
		}
	}
	return false
}

// packages names the policy's packages, as many as fit into a message.
func packages(compiler *ast.Compiler) string {
	names := make([]string, 0, len(compiler.Modules))
	for _, module := range compiler.Modules {
		names = append(names, literals.ReplaceAllString(strings.TrimPrefix(module.Package.String(), "package "), `"…"`))
	}
	slices.Sort(names)
	return shorten(strings.Join(slices.Compact(names), ", "), maxMessage)
}

// label makes a reference fit for a check's name.
func label(decision ast.Ref) string {
	const most = 48
	return shorten(strings.TrimPrefix(decision.String(), "data."), most)
}

// shorten cuts a text at a character's boundary.
func shorten(text string, most int) string {
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// maxMessage bounds what is shown of one of OPA's messages: it may hold a name as long as the policy.
const maxMessage = 256

// A policy may hold a credential, and messages go to logs. String constants stand in OPA's messages as literals, and in
// references also without quotes: tokens["abc"] is shown as data.p.tokens.abc.
var (
	literals   = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"?|`[^`]*`?")
	references = regexp.MustCompile(`(?:[A-Za-z_]\w*[.\[]|[\])}]\.)\S*`)
)

// redact takes the policy's string constants out of one of OPA's messages.
func redact(message string) string {
	message = literals.ReplaceAllStringFunc(strings.Join(strings.Fields(message), " "), func(literal string) string {
		if ast.IsKeyword(strings.Trim(literal, "`")) { // as in: `if` keyword is required
			return literal
		}
		return `"…"`
	})
	message = references.ReplaceAllStringFunc(message, func(ref string) string {
		name := strings.TrimRight(ref, ".,:;")
		if _, builtin := ast.BuiltinMap[name]; builtin || name == "e.g" {
			return ref
		}
		head, _, _ := strings.Cut(strings.ReplaceAll(ref, "[", "."), ".")
		return head + ".…"
	})
	return shorten(message, maxMessage)
}

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
		if e.Location != nil && e.Location.File != "" {
			place = fmt.Sprintf("%s:%d:%d", e.Location.File, e.Location.Row, e.Location.Col)
		}
		problems = append(problems, config.Problem{
			Field: place,
			Text:  e.Code + ": " + redact(e.Message),
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
	input  inputForm
	// lifetime is what bounds answers that state no lifetime of their own.
	lifetime config.Lifetime
}

func (c *check) Name() string { return c.name }

func (c *check) Cost() policy.Cost { return policy.Compute }

func (c *check) Evaluate(ctx context.Context, request *policy.Request) policy.Verdict {
	input, failure := c.input.of(request)
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
