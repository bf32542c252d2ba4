package rego

import (
	"fmt"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// load makes the program of data.p.allow.
func load(tb testing.TB, version ast.RegoVersion, sources ...string) *program {
	tb.Helper()
	modules, problems := parse(sources, version, NewEnvironment(Options{}))
	require.Empty(tb, problems)
	l, problems := newLibrary(modules, version, NewEnvironment(Options{}))
	require.Empty(tb, problems)
	for attempt := 0; ; attempt++ {
		p, problems := newProgram(l, ast.MustParseRef("data.p.allow"))
		require.Empty(tb, problems)
		if attempt == 20 || !strings.HasPrefix(p.analysis.NotPartial, "it takes longer") { // on a machine that is busy
			return p
		}
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	const lib = `package lib
user := input.subject.user
admins contains input.token.sub if input.token.admin
deep.er.rule := input.value
members[name] := input.api.name if some name in ["a"]
f(x) := x if input.key
`
	for _, test := range []struct{ body, want string }{
		{`true`, ``},
		{`input.subject.user == "a"`, `input.subject.user`},
		{`input.subject["user"] == "a"`, `input.subject.user`},
		{`input.subject.properties["x-y"] == "a"`, `input.subject.properties["x-y"]`},
		{`input.subject.user == "a"; input.subject.user == input.action.path`, `input.action.path input.subject.user`},
		{`input.subject; input.subject.user == "a"`, `input.subject`},
		{`input.subject.groups[0] == "a"`, `input.subject.groups`},
		{`input.subject.groups[_] == "a"`, `input.subject.groups`},
		{`some x in input.token.aud; x == "a"`, `input.token.aud`},
		{`input.subject[input.key]`, `input.key input.subject`},
		{`x := input.subject; x.user == "a"`, `input.subject`},
		{`not input.value`, `input.value`},
		{`every x in input.token.aud { x != input.value }`, `input.token.aud input.value`},
		{`count([x | x := input.value; input.key]) == 0`, `input.key input.value`},
		{`count({x: y | x := input.value; y := input.key}) == 0`, `input.key input.value`},
		{`$"{input.value}" == "a"`, `input.value`},
		{`{"a": input.value}.a in {input.key}`, `input.key input.value`},
		{`walk(input.token, [_, "a"])`, `input.token`},
		{`count(json.filter(input.subject, ["user"])) == 0`, `input.subject`},
		{`who.user == "a"`, `input.subject.user`},
		{`input.value.at.all`, `input.value.at.all`},
		// Rules
		{`data.lib.user == "a"`, `input.subject.user`},
		{`lib.user == "a"`, `input.subject.user`},
		{`"a" in lib.admins`, `input.token.admin input.token.sub`},
		{`lib.deep.er.rule`, `input.value`},
		{`lib.deep`, `input.value`},
		{`lib.deep[input.key]`, `input.key input.value`},
		{`lib.members.a`, `input.api.name`},
		{`lib.members[input.key]`, `input.api.name input.key`},
		{`lib.f(1)`, `input.key`},
		{`lib.f(input.action)`, `input.action input.key`},
		{`data.lib[input.key]`, `input.api.name input.key input.subject.user input.token.admin input.token.sub input.value`},
		{`lib.nothing`, ``},
		{`data.other[input.key]`, `input.key`},
		{`lib.user with data.lib.user as input.value`, `input.subject.user input.value`},
		{`f(1) with f as data.lib.f`, `input.key input.subject.user`},
		{`count([1]) with count as data.lib.f`, `input.key`},
		// Everything
		{`input[input.key]`, `input`},
		{`some x; input[x]`, `input`},
		{`input[_] == "a"`, `input`},
		{`x := input; x.key`, `input`},
		{`walk(input, [_, "a"])`, `input`},
		{`count(json.filter(input, ["key"])) == 0`, `input`},
		{`object.get(input, "key", "a") == "a"`, `input`},
		{`lib.f(input)`, `input`},
		{`count([input]) == 0`, `input`},
		{`lib.user with input as {}`, `input`},
		{`lib.user with input.subject.user as "a"`, `input`},
		{`lib.user == 1 with input.nothing as "a"`, `input`},
		{`x := count([input | true])`, `input`},
	} {
		p := load(t, ast.RegoV1, "package p\nimport data.lib\nimport input.subject as who\nf(_) := 1 if input.subject.user\nallow if { "+test.body+" }", lib)
		reads := []string{}
		for _, path := range p.analysis.Reads {
			reads = append(reads, path.String())
		}
		assert.Equal(t, test.want, strings.Join(reads, " "), test.body)
		assert.Equal(t, test.want == "input", p.analysis.ReadsEverything(), test.body)
		assert.Equal(t, test.want == "input", len(p.analysis.Widened) > 0, "%s: %v", test.body, p.analysis.Widened)
		assert.True(t, p.analysis.Rememberable(), test.body)
	}
}

// Whatever is not known to depend on its arguments alone is volatile, in whatever way a policy comes to it.
func TestNoBuiltinOutsideTheListIsRemembered(t *testing.T) {
	t.Parallel()
	outside := 0
	for _, b := range capabilities(nil).Builtins {
		if pure[b.Name] && !watched[b.Name] || strings.HasPrefix(b.Name, "faultinjection.") || b.Name == "internal.print" || b.Name == "print" {
			continue
		}
		outside++
		arity := len(b.Decl.FuncArgs().Args)
		variables, arguments := make([]string, arity), make([]string, arity)
		for i := range variables {
			variables[i], arguments[i] = fmt.Sprintf("x%d", i), "input.value"
		}
		parameters, call := strings.Join(variables, ", "), b.Name+"("+strings.Join(arguments, ", ")+")"
		f := "f(" + parameters + ") := 1\ncalls := f(" + strings.Join(arguments, ", ") + ")\n"
		for how, module := range map[string]string{
			"directly":            "allow if " + call,
			"in a comprehension":  "allow if count([x | x := " + call + "]) == 0",
			"negated":             "allow if not " + call,
			"in another package":  "allow if data.q.rule",
			"by a dynamic name":   "allow if data.q[input.key]",
			"through a function":  "g(_) if " + call + "\nallow if g(1)",
			"in a head":           "allow := " + call,
			"in an else":          "allow if input.key\nelse := " + call,
			"as a value":          f + "allow if calls with f as " + b.Name,
			"as a value of data":  f + "allow if calls with data.p.f as " + b.Name,
			"as what is replaced": f + "allow if calls with " + b.Name + " as f",
		} {
			modules, problems := parse([]string{"package p\n" + module, "package q\nrule := " + call}, ast.RegoV1, NewEnvironment(Options{}))
			require.Empty(t, problems, module)
			l, problems := newLibrary(modules, ast.RegoV1, NewEnvironment(Options{}))
			if len(problems) > 0 && strings.HasPrefix(how, "as ") { // not every built-in may be one
				continue
			}
			require.Empty(t, problems, module)
			p, problems := newProgram(l, ast.MustParseRef("data.p.allow"))
			require.Empty(t, problems)
			assert.False(t, p.analysis.Rememberable(), "%s %s", b.Name, how)
			assert.Nil(t, newCheck("", p, config.Denial{}, NewCache(1<<20, 1<<20)).memory, "%s %s", b.Name, how)
			assert.Nil(t, p.residual, "%s %s: not evaluated before its time", b.Name, how)
		}
	}
	assert.Greater(t, outside, 8, "the built-ins that there are")
}

// A statement that prints is kept by the compiler only where somebody listens; then it has to run every time.
func TestPrintIsNotRemembered(t *testing.T) {
	t.Parallel()
	modules, problems := parse([]string{"package p\nallow if { print(input.value) }"}, ast.RegoV1, NewEnvironment(Options{}))
	require.Empty(t, problems)
	compiler := ast.NewCompiler().WithEnablePrintStatements(true)
	compiler.Compile(modules)
	require.False(t, compiler.Failed())
	found := analyse(compiler, ast.MustParseBody("data.p.allow"))
	assert.False(t, found.Rememberable())
	assert.NotEmpty(t, found.Unrememberable)
}

// A node that this version does not know could hide anything.
func TestUnknownNodesAreEverything(t *testing.T) {
	t.Parallel()
	w := newWalker(ast.NewCompiler())
	w.visit(struct{}{})
	assert.Equal(t, []Path{{}}, w.paths)
	assert.False(t, w.found.Rememberable())
}

const tooLong = "it takes longer than 50ms"

// loadInPeace loads policies whose partial evaluation takes next to no time, and more only where the machine is busy.
func loadInPeace(t *testing.T, version ast.RegoVersion, modules ...string) (p *program) {
	t.Helper()
	for range 30 {
		if p = load(t, version, modules...); p.analysis.NotPartial != tooLong {
			break
		}
	}
	return p
}

func TestPartialEvaluation(t *testing.T) {
	t.Parallel()
	const inverts = "the policy uses `not`, `every`, a comprehension, a template string, the result of `in`, or a set or a package as a whole"
	for _, test := range []struct{ module, not string }{
		{"allow if input.value == 1", ""},
		{"default allow := false\nallow if input.value == 1", ""},
		{`allow if { some role in {"a": ["b"]}[input.subject.user]; role == input.value }`, ""},
		{"allow if not input.value", inverts},
		{"allow if every x in input.value { x == 1 }", inverts},
		{"allow if count([x | x := input.value]) == 1", inverts},
		{"allow if { x := input.key in [1, data.x]; x == false }", inverts},
		{"allow if { x := (1, input.key in [1, data.x]); x == false }", inverts},
		{`allow if $"{input.key}" == "x"`, inverts},
		{"import rego.v2\nallow if input.key or input.value", inverts},
		{"s contains input.value\nallow if count(s) == 0", inverts},
		{"t.s contains input.value\nallow if t[input.key] == set()", inverts},
		{"allow if data.q == {}", ""},
		{"h.a.b := 1 if input.value\nallow if h.a == {}", inverts},
		{"allow if input.key in [1, data.x]", ""},
		{"f(x) if x == 1\nallow if f(input.key) in [1, data.x]", "the policy uses `in` beside functions"},
		{"f(x) if not x\nallow if f(input.value)", inverts},
		{"s contains input.value\nallow if s.a", ""},
		{"allow := {\"allow\": true, \"reason\": input.value}", ""},
		{"allow := time.now_ns() > input.value", "answers depend on more than the input"},
		{"q := 1\nallow if q with data.p.q as input.value", "the policy uses `with`"},
		{"o[input.key] := input.value\nallow if o.a", "the policy makes objects with computed keys, which may conflict"},
		{"allow if {x: 1 | x := input.value}.a", "the policy makes objects with computed keys, which may conflict"},
		{"m.a.b := 1\nm.a[k] contains x if { k := input.key; x := input.value }\nallow if m.a", "the policy makes objects with computed keys, which may conflict"},
		{"q := 1 if input.value\nq := 2 if input.key\nallow if q == 3", "rule p.q may have two values for one request, which is an error"},
		{"q := input.value\nallow if q == 3", "rule p.q may have two values for one request, which is an error"},
		{"f(x) := x\nallow if f(input.value)", "rule p.f may have two values for one request, which is an error"},
		{"f(x) := 1 if x\nallow if f(input.value)", ""},
		{"allow if { x := numbers.range(1, 65)[_]; input.value == x }", "it leaves 1 queries and 65 rules; at most 16 and 64 serve"},
		{
			"allow if { x := numbers.range(1, 30)[_]; y := numbers.range(1, 30)[_]; z := numbers.range(1, 30)[_]; w := numbers.range(1, 30)[_]; input.value == [x, y, z, w] }",
			tooLong,
		},
	} {
		p := load(t, ast.RegoV1, "package p\n"+test.module)
		if test.not != tooLong { // or else it is so at once
			p = loadInPeace(t, ast.RegoV1, "package p\n"+test.module)
		}
		assert.Equal(t, test.not, p.analysis.NotPartial, test.module)
		assert.Equal(t, test.not == "", p.residual != nil, test.module)
	}
	large := loadInPeace(t, ast.RegoV1, "package p\nallow if input.value in ["+strings.Repeat("1, ", maxPartialNodes)+"1]")
	assert.Equal(t, "the policy is too large", large.analysis.NotPartial)
	for module, not := range map[string]string{
		"allow { input.value == 1 }":        "",
		"allow { count(input.value) == 1 }": "errors in built-ins end the evaluation of V0 policies, and count may have some",
	} {
		assert.Equal(t, not, loadInPeace(t, ast.RegoV0, "package p\n"+module).analysis.NotPartial, module)
	}
}

// Partial evaluation of OPA 1.22 takes a part of the input for equal to itself even where there is none, unless rules are left as they are.
func TestAPartThatIsNotThereEqualsNothing(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"input.subject.user == input.subject.user", "x := input.subject.user; x == input.subject.user", "x := input.subject.user; true"} {
		p := loadInPeace(t, ast.RegoV1, "package p\ndefault allow := false\nallow if { "+body+" }")
		require.NotNil(t, p.residual, "this test wants one")
		value, failure := p.evaluate(t.Context(), &policy.Request{})
		require.Nil(t, failure)
		assert.Equal(t, false, value, body)
	}
}

// Data of another type than what it is compared with makes a comparison false, and what denies for that is not to be left out.
func TestWhatDoesNotFitIsNotEqual(t *testing.T) {
	t.Parallel()
	for _, blocked := range []string{
		"not upper(input.key) == data.admin", "not upper(input.key) in [data.admin]", "not count(input.key) == data.admin",
		"{ in_list := upper(input.key) in [data.admin]; in_list == false }", "{ x := [1 | input.key]; not x == data.admin }",
		"count(admins) == 0", "another(data.admin) in [another(input.key), data.text]",
	} {
		modules, problems := parse([]string{"package p\nblocked if " + blocked + `
default allow := true
allow := false if blocked
admins contains x if { x := upper(input.key); x == data.admin }
another(x) if x != ["a"]`}, ast.RegoV1, NewEnvironment(Options{}))
		require.Empty(t, problems)
		l, problems := newLibrary(modules, ast.RegoV1, NewEnvironment(Options{}))
		require.Empty(t, problems)
		l.store = inmem.NewFromObject(map[string]any{"admin": nil, "text": "a"})
		p, problems := newProgram(l, ast.MustParseRef("data.p.allow"))
		require.Empty(t, problems)
		value, failure := p.evaluate(t.Context(), &policy.Request{Identity: "eve"})
		require.Nil(t, failure)
		assert.Equal(t, false, value, blocked)
	}
}

// Of an expression that is never true nothing is left, nor of the error that it ends in where two rules make one key.
func TestAConflictOfKeysIsLeft(t *testing.T) {
	t.Parallel()
	p := loadInPeace(t, ast.RegoV1, "package p\nm.a.b := 1\nm.a[k] contains 2 if k := input.key\nallow if { count(m.a) == 0; false }\nallow if input.subject.user")
	_, failure := p.evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: "u"}, Identity: "b"})
	require.NotNil(t, failure)
	assert.Equal(t, config.EvaluationError, failure.Class)
}

// What is left may refer to rules of the policy, which have to come along.
func TestWhatIsLeftKeepsItsRules(t *testing.T) {
	t.Parallel()
	for body, refers := range map[string]bool{"data.q.a == data.q[input.key]": true, "data.q[input.key]": false, "s[_]": false} {
		p := loadInPeace(t, ast.RegoV1, "package p\ns contains input.value\nallow if "+body, "package q\na if input.value\nb if input.key", "package unrelated\nc := 1")
		require.NotNil(t, p.residual, body)
		assert.Equal(t, refers, p.residual.compiler.Modules["policy[0]"] != nil || p.residual.compiler.Modules["policy[1]"] != nil, body)
		assert.NotContains(t, p.residual.compiler.Modules, "policy[2]", body)
		one := attribute.OfText(attribute.String, "a")
		value, failure := p.evaluate(t.Context(), &policy.Request{Value: &one, Identity: "a"})
		require.Nil(t, failure, body)
		assert.Equal(t, true, value, body)
	}
}
