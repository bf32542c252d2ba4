package rego

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Analysis is what can be told of a program without running it. It errs on the side of more: a program may read less than Reads says,
// and never reads anything else.
type Analysis struct {
	// Reads are the parts of the input that the program can read: sorted, and none of them lies within another. None means that every
	// request is answered alike.
	Reads []Path `json:"reads"`
	// Widened are the places where the program takes the whole input, or a part of it that is known only when it runs.
	Widened []Finding `json:"widened,omitempty"`
	// Volatile are the built-ins that may give another result a moment later. Answers of a program that has any are single-use where
	// they state no lifetime of their own, and are not remembered.
	Volatile []Finding `json:"volatile,omitempty"`
	// Unrememberable are further reasons why answers are not remembered.
	Unrememberable []Finding `json:"unrememberable,omitempty"`
	// NotPartial says why the program is not evaluated partially when it is loaded; empty where it is.
	NotPartial string `json:"not_partial,omitempty"`

	rules []*ast.Rule
	uses  uses
}

// Rememberable reports whether an answer may be given again to a request that has the same in all that the program reads.
func (a *Analysis) Rememberable() bool { return len(a.Volatile) == 0 && len(a.Unrememberable) == 0 }

// ReadsEverything reports whether the program can read every part of the input.
func (a *Analysis) ReadsEverything() bool { return len(a.Reads) == 1 && len(a.Reads[0]) == 0 }

// Path is the way to a part of the input, as the names of members; empty for the input itself.
type Path []string

// String returns the path as Rego writes it.
func (p Path) String() string {
	ref := make(ast.Ref, 0, len(p)+1)
	ref = append(ref, ast.InputRootDocument)
	for _, name := range p {
		ref = append(ref, ast.StringTerm(name))
	}
	return ref.String()
}

// MarshalJSON writes the path as String does.
func (p Path) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

func (p Path) covers(q Path) bool { return len(p) <= len(q) && slices.Equal(p, q[:len(p)]) }

// Finding is a construct of a policy and its place.
type Finding struct {
	// Construct is how the policy writes it, without its constants.
	Construct string `json:"construct"`
	// Place is file:row:column; empty where it is not known.
	Place string `json:"place,omitempty"`
}

// String returns the construct and its place.
func (f Finding) String() string {
	if f.Place == "" {
		return f.Construct
	}
	return f.Construct + " at " + f.Place
}

// uses is what decides about partial evaluation.
type uses struct {
	// with and objects are whether the program has `with`, and object comprehensions or rules that make objects.
	with, objects bool
	// inverts is whether anything may hold because something else does not, functions whether it has any of its own.
	inverts, functions bool
	// builtins are the names of those it has.
	builtins map[string]bool
	// size is how many nodes the rules and the query have.
	size int
	// references counts who refers to the rules below a ground reference.
	references map[*ast.Rule]int
}

// analyse looks at a compiled query and at every rule that it can reach, by whatever reference: one whose end is known only when it runs
// reaches every rule below its beginning.
func analyse(compiler *ast.Compiler, query ast.Body) *Analysis {
	w := newWalker(compiler)
	w.walk(query)
	for len(w.todo) > 0 {
		rule := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		w.location = rule.Location
		w.rule(rule)
	}
	found := w.found
	found.rules = w.rules
	found.Reads = shortest(w.paths)
	for _, findings := range []*[]Finding{&found.Widened, &found.Volatile, &found.Unrememberable} {
		slices.SortFunc(*findings, func(a, b Finding) int {
			return cmp.Or(strings.Compare(a.Place, b.Place), strings.Compare(a.Construct, b.Construct))
		})
		*findings = slices.Compact(*findings)
	}
	return found
}

// shortest sorts paths and leaves out what lies within another.
func shortest(paths []Path) []Path {
	slices.SortFunc(paths, slices.Compare)
	kept := []Path{} // not nil: JSON tells an empty list from none
	for _, path := range paths {
		if len(kept) == 0 || !kept[len(kept)-1].covers(path) {
			kept = append(kept, path)
		}
	}
	return kept
}

type walker struct {
	compiler *ast.Compiler
	found    *Analysis
	paths    []Path
	rules    []*ast.Rule
	seen     map[*ast.Rule]bool
	todo     []*ast.Rule
	location *ast.Location // of the innermost term or expression
}

func newWalker(compiler *ast.Compiler) *walker {
	return &walker{
		compiler: compiler,
		found:    &Analysis{uses: uses{builtins: map[string]bool{}, references: map[*ast.Rule]int{}}},
		seen:     map[*ast.Rule]bool{},
	}
}

func (w *walker) rule(rule *ast.Rule) {
	for r := rule; r != nil; r = r.Else {
		if len(r.Head.Reference) > 1 { // which the visitor leaves out
			for _, term := range r.Head.Reference[1:] {
				w.walk(term)
			}
		}
	}
	if rule.Head.Key != nil && rule.Head.Value != nil || !rule.Head.Ref().IsGround() {
		w.found.uses.objects = true
	}
	if len(rule.Head.Args) > 0 {
		w.found.uses.functions = true
	}
	w.walk(rule)
}

func (w *walker) walk(node any) { ast.NewGenericVisitor(w.visit).Walk(node) }

// visit takes in one node and reports whether it has looked at what is below it.
func (w *walker) visit(node any) (done bool) {
	w.found.uses.size++
	switch x := node.(type) {
	case *ast.Term:
		w.at(x.Location)
	case *ast.Expr:
		w.at(x.Location)
		if x.Negated || keepsMembership(x) {
			w.found.uses.inverts = true
		}
	case *ast.With:
		w.found.uses.with = true
		if target, ok := x.Target.Value.(ast.Ref); !ok || target.HasPrefix(ast.InputRootRef) {
			// What becomes of the input depends on what is there where it is replaced.
			w.everything("with " + x.Target.String())
		}
	case *ast.Head: // not its name, which is no reference
		for _, term := range x.Args {
			w.walk(term)
		}
		if x.Key != nil {
			w.walk(x.Key)
		}
		if x.Value != nil {
			w.walk(x.Value)
		}
		return true
	case ast.Var:
		switch x {
		case ast.InputRootDocument.Value, ast.DefaultRootDocument.Value:
			w.reference(ast.Ref{ast.NewTerm(x)})
		default:
			w.builtin(string(x))
		}
	case ast.Ref:
		w.reference(x)
		return true
	case *ast.ObjectComprehension:
		w.found.uses.objects, w.found.uses.inverts = true, true
	case *ast.ArrayComprehension, *ast.SetComprehension, *ast.Every, *ast.TemplateString, *ast.Not, *ast.LogicalAnd, *ast.LogicalOr:
		w.found.uses.inverts = true
	case *ast.Rule, ast.Body, ast.Args, ast.Call, *ast.SomeDecl,
		ast.Null, ast.Boolean, ast.Number, ast.String, *ast.Array, ast.Object, ast.Set:
	default:
		// The visitor may not know what is in it either.
		w.everything(fmt.Sprintf("a %T, which this version does not know", node))
		w.found.Unrememberable = append(w.found.Unrememberable, w.finding(fmt.Sprintf("a %T, which this version does not know", node)))
	}
	return false
}

// keepsMembership reports whether an expression takes the result of `in`, and so goes on where that is false.
func keepsMembership(expr *ast.Expr) bool {
	for _, in := range []*ast.Builtin{ast.Member, ast.MemberWithKey} {
		if expr.IsCall() && expr.Operator().Equal(in.Ref()) {
			return len(expr.Operands()) > in.Decl.Arity()
		}
	}
	return false
}

func (w *walker) at(location *ast.Location) {
	if location != nil {
		w.location = location
	}
}

func (w *walker) finding(construct string) Finding {
	f := Finding{Construct: construct}
	if l := w.location; l != nil && l.File != "" {
		f.Place = fmt.Sprintf("%s:%d:%d", l.File, l.Row, l.Col)
	}
	return f
}

func (w *walker) everything(construct string) {
	w.paths = append(w.paths, Path{})
	w.found.Widened = append(w.found.Widened, w.finding(construct))
}

func (w *walker) reference(ref ast.Ref) {
	head, ok := ref[0].Value.(ast.Var)
	switch {
	case !ok: // a call or an object that is looked into
		w.walk(ref[0])
	case head == ast.InputRootDocument.Value:
		w.input(ref)
	case head == ast.DefaultRootDocument.Value:
		w.data(w.compiler.RuleTree.Child(head), ref)
	default:
		w.builtin(ref.String())
	}
	for _, term := range ref[1:] {
		w.walk(term)
	}
}

// input takes in a reference below the input, as far as its steps are names.
func (w *walker) input(ref ast.Ref) {
	path := Path{}
	for _, term := range ref[1:] {
		name, ok := term.Value.(ast.String)
		if !ok {
			break
		}
		path = append(path, string(name))
	}
	switch {
	case len(path) > 0:
		w.paths = append(w.paths, path)
	case len(ref) > 1:
		w.everything("input[…]")
	default:
		w.everything("input as a value")
	}
}

// data takes in every rule that a reference below data can reach: those on its way, those at its end, and those below.
func (w *walker) data(node *ast.TreeNode, ref ast.Ref) {
	if node == nil {
		return
	}
	if len(ref) == 1 {
		node.DepthFirst(func(below *ast.TreeNode) bool {
			w.reach(below.Values)
			several := below != node || slices.ContainsFunc(below.Values, func(rule *ast.Rule) bool { return rule.Head.RuleKind() == ast.MultiValue })
			if len(below.Values) > 0 && several { // a whole that is there with nothing in it
				w.found.uses.inverts = true
			}
			return false
		})
		return
	}
	w.reach(node.Values)
	if name, ok := ref[1].Value.(ast.String); ok {
		w.data(node.Child(name), ref[1:])
		return
	}
	for _, child := range node.Children {
		w.data(child, ref[1:])
	}
}

func (w *walker) reach(rules []*ast.Rule) {
	for _, rule := range rules {
		w.found.uses.references[rule]++
		if !w.seen[rule] {
			w.seen[rule] = true
			w.rules = append(w.rules, rule)
			w.todo = append(w.todo, rule)
		}
	}
}

// builtin takes in the name of a built-in, wherever it stands: it can also be the value in `with data.x as rand.intn`.
func (w *walker) builtin(name string) {
	if _, ok := ast.BuiltinMap[name]; !ok {
		return
	}
	w.found.uses.builtins[name] = true
	switch {
	case !pure[name]:
		w.found.Volatile = append(w.found.Volatile, w.finding(name))
	case watched[name]:
		w.found.Unrememberable = append(w.found.Unrememberable, w.finding(name))
	}
}

// watched are the pure built-ins that somebody watches at work, which must not end because an answer is remembered.
var watched = map[string]bool{"print": true, "internal.print": true, "trace": true}
