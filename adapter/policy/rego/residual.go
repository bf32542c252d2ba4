package rego

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Bounds of partial evaluation. What is left of a policy can be far larger than the policy, above all where it has large data.
const (
	maxPartialTime  = 50 * time.Millisecond
	maxResiduals    = 16
	maxSupportRules = 64
	maxPartialNodes = 10_000 // of the program; what is left of it is compiled once more
)

// residualPackage is where partial evaluation puts the rules that it makes. No policy has a package of this name by accident.
const residualPackage = "__tollgate_residual__"

// partial evaluates the query as far as it goes without the input, and returns what is left to be evaluated for each request. Where it must
// not or does not serve, it returns why.
//
// What is left has to come to the same as the query in all cases, failures included: a policy that fails is not to become one that passes.
// Partial evaluation leaves out what cannot be true any more, and with it the errors that were on the way there. So it serves programs that
// cannot fail there: no rule may have two values, and where errors in built-ins end the evaluation, no built-in may have errors.
//
// And it leaves out a body in which types do not fit any more when data stands in it, though it may be true for that: `not upper(input.key) ==
// data.admin` is where data.admin is null. A set whose every body is left out is undefined and not empty. So it serves no program in which
// anything may hold because something else does not. What a function yields has no type there, which makes types of `in` wrong.
func (q *query) partial(l *library, found *Analysis) (residual *query, not string) {
	if not = unserved(q, found); not != "" {
		return nil, not
	}
	cancel := topdown.NewCancel()
	timer := time.AfterFunc(maxPartialTime, cancel.Cancel)
	defer timer.Stop()
	bodies, support, err := topdown.NewQuery(q.bodies[0]).WithCompiler(q.compiler).WithQueryCompiler(q.queries[0]).
		WithStore(q.store).WithTransaction(q.open).WithStrictBuiltinErrors(q.strict).WithCancel(cancel).
		WithUnknowns([]*ast.Term{ast.NewTerm(ast.InputRootRef)}).WithPartialNamespace(residualPackage).WithShallowInlining(true).
		PartialRun(context.Background())
	rules := 0
	for _, module := range support {
		rules += len(module.Rules)
	}
	switch {
	case topdown.IsCancel(err):
		return nil, fmt.Sprintf("it takes longer than %s", maxPartialTime)
	case err != nil:
		return nil, "it fails: " + errorCode(err)
	case len(bodies) > maxResiduals || rules > maxSupportRules:
		return nil, fmt.Sprintf("it leaves %d queries and %d rules; at most %d and %d serve", len(bodies), rules, maxResiduals, maxSupportRules)
	}
	compiler := ast.NewCompiler().WithCapabilities(l.compiler.Capabilities()).WithDefaultRegoVersion(l.version)
	modules := q.referred(bodies, support, found)
	for i, module := range support {
		modules[fmt.Sprintf("%s/%d", residualPackage, i)] = module
	}
	if compiler.Compile(modules); compiler.Failed() {
		return nil, "what it leaves does not compile: " + compiler.Errors[0].Code
	}
	residual = &query{compiler: compiler, store: q.store, open: q.open, strict: q.strict, environment: q.environment}
	for _, body := range bodies {
		if err := residual.add(body); err != nil {
			return nil, "what it leaves does not compile"
		}
	}
	return residual, ""
}

// referred returns the modules that the program can come to if what is left still refers to any rule of them, and else none: they would have to
// be compiled once more.
func (q *query) referred(bodies []ast.Body, support []*ast.Module, found *Analysis) map[string]*ast.Module {
	modules := map[string]*ast.Module{}
	left := newWalker(q.compiler)
	for _, body := range bodies {
		left.walk(body)
	}
	for _, module := range support {
		for _, rule := range module.Rules {
			left.rule(rule)
		}
	}
	if len(left.rules) == 0 {
		return modules
	}
	for name, module := range q.compiler.Modules {
		if slices.ContainsFunc(module.Rules, func(rule *ast.Rule) bool { return found.uses.references[rule] > 0 }) {
			modules[name] = module
		}
	}
	return modules
}

// unserved says why partial evaluation must not be used; nothing where it may.
func unserved(q *query, found *Analysis) string {
	switch {
	case found.uses.size > maxPartialNodes:
		return "the policy is too large"
	case !found.Rememberable():
		return "answers depend on more than the input"
	case found.uses.with:
		return "the policy uses `with`"
	case found.uses.objects:
		return "the policy makes objects with computed keys, which may conflict"
	case found.uses.inverts:
		return "the policy uses `not`, `every`, a comprehension, a template string, the result of `in`, or a set or a package as a whole"
	case found.uses.functions && (found.uses.builtins[ast.Member.Name] || found.uses.builtins[ast.MemberWithKey.Name]):
		return "the policy uses `in` beside functions"
	}
	for name := range found.uses.builtins {
		if q.strict && !infallible[name] {
			return "errors in built-ins end the evaluation of V0 policies, and " + name + " may have some"
		}
	}
	for _, rule := range found.rules {
		if name := strings.TrimPrefix(rule.Ref().String(), "data."); mayConflict(q.compiler, rule) && !decides(q, found, rule) {
			return "rule " + name + " may have two values for one request, which is an error"
		}
	}
	return ""
}

// infallible are the built-ins that have a result for all arguments.
var infallible = map[string]bool{
	"assign": true, "eq": true, "equal": true, "gt": true, "gte": true, "lt": true, "lte": true, "neq": true,
	"internal.member_2": true, "internal.member_3": true,
}

// decides reports whether a rule is the one that is asked for, and nothing else refers to it. Its values are all found, so that a conflict
// is found as well.
func decides(q *query, found *Analysis, rule *ast.Rule) bool {
	ref, ok := q.bodies[0][0].Operand(0).Value.(ast.Ref)
	return ok && rule.Ref().Equal(ref) && found.uses.references[rule] == 1
}

// mayConflict reports whether the definitions of a rule can come to two values.
func mayConflict(compiler *ast.Compiler, rule *ast.Rule) bool {
	if rule.Head.RuleKind() == ast.MultiValue {
		return false
	}
	var values []*ast.Term
	definitions := 0
	for _, definition := range compiler.GetRulesExact(rule.Ref()) {
		if definition.Default {
			continue
		}
		definitions++
		for r := definition; r != nil; r = r.Else {
			if !constant(r.Head.Value) {
				return true
			}
			values = append(values, r.Head.Value)
		}
	}
	for _, value := range values {
		if definitions > 1 && !value.Equal(values[0]) {
			return true
		}
	}
	return false
}

// constant reports whether a term is the same for every request.
func constant(term *ast.Term) bool {
	switch term.Value.(type) {
	case ast.Null, ast.Boolean, ast.Number, ast.String:
		return true
	case *ast.Array, ast.Object, ast.Set:
		return ast.IsConstant(term.Value)
	}
	return false
}
