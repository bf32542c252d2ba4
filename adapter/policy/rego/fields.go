package rego

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tollgate-mesh/tollgate/config"
)

// inputFields are the members of the input, and theirs where those are known as well; see docs/rego.md.
var inputFields = map[string][]string{
	"subject": {"user", "groups", "properties"},
	"action":  {"namespace", "service", "method", "path", "properties"},
	"api":     {"name", "version", "operation", "key", "timestamp"},
	"token":   nil,
	"value":   nil,
	"key":     nil,
}

// checkInputFields finds references to members that no input has, in the rules that a program can reach. Such a reference is undefined
// for every request, and a rule that expects it to be otherwise decides wrongly and in silence. What a policy looks up by a
// value, or in an input that it made itself using `with`, is its own affair.
func checkInputFields(rules []*ast.Rule) (problems config.Problems) {
	var replaced []ast.Ref
	for _, rule := range rules {
		ast.WalkWiths(rule, func(with *ast.With) bool {
			if target, ok := with.Target.Value.(ast.Ref); ok && target.HasPrefix(ast.InputRootRef) {
				replaced = append(replaced, target)
			}
			return false
		})
	}
	for _, rule := range rules {
		walkDeciding(rule, func(ref ast.Ref) {
			if text := unknownField(ref); text != "" && !slices.ContainsFunc(replaced, ref.HasPrefix) && !slices.ContainsFunc(replaced, isInput) {
				problem := config.Problem{Field: place("policy", ref[0].Location), Text: text}
				if !slices.Contains(problems, problem) {
					problems = append(problems, problem)
				}
			}
		})
	}
	slices.SortFunc(problems, func(a, b config.Problem) int { return strings.Compare(a.String(), b.String()) })
	return problems
}

// walkDeciding visits the references of a rule but for those that are only printed: they decide nothing, and where nobody listens to print
// the compiler leaves them out.
func walkDeciding(rule *ast.Rule, visit func(ast.Ref)) {
	// The compiler gives every argument of print a variable, and puts before it what that is.
	printed := ast.NewVarSet()
	ast.WalkExprs(rule, func(x *ast.Expr) bool {
		if x.IsCall() && x.Operator().String() == ast.InternalPrint.Name {
			ast.WalkVars(x.Operand(0), func(v ast.Var) bool { printed.Add(v); return false })
		}
		return false
	})
	ast.NewGenericVisitor(func(node any) bool {
		switch x := node.(type) {
		case *ast.Expr:
			if !x.Generated || !x.IsEquality() {
				return false
			}
			v, ok := x.Operand(0).Value.(ast.Var)
			return ok && printed.Contains(v)
		case ast.Ref:
			visit(x)
		}
		return false
	}).Walk(rule)
}

func isInput(ref ast.Ref) bool { return len(ref) == 1 }

// unknownField says what is wrong with a reference into the input, if anything.
func unknownField(ref ast.Ref) string {
	if !ref.HasPrefix(ast.InputRootRef) || len(ref) == 1 {
		return ""
	}
	known := slices.Sorted(maps.Keys(inputFields))
	for i, term := range ref[1:min(len(ref), 3)] {
		if !ast.IsConstant(term.Value) {
			return ""
		}
		name, isText := term.Value.(ast.String)
		if !isText || !slices.Contains(known, string(name)) {
			return fmt.Sprintf("%s is in no input, so it would always be undefined; %s has %s", shorten(ref[:i+2].String(), maxMessage), ref[:i+1], strings.Join(known, ", "))
		}
		if known = inputFields[string(name)]; len(known) == 0 {
			return ""
		}
	}
	return ""
}
