package rego_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestNoPolicy(t *testing.T) {
	t.Parallel()
	checks, problems := rego.Kind{}.Compile(&config.Handler{})
	assert.Empty(t, checks)
	assert.Empty(t, problems)
}

func TestCheck(t *testing.T) {
	t.Parallel()
	check := compile(t, config.RegoV0, "data.mixerauthz.allow", "package mixerauthz\nallow = true")
	assert.Equal(t, "rego/mixerauthz.allow", check.Name())
	assert.Equal(t, policy.Compute, check.Cost())
}

// A check's name is a label: short, and text, whatever check_method is.
func TestNamesAreShort(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		path := `p["` + strings.Repeat("x", i) + strings.Repeat("é", 100) + `"]`
		name := compile(t, config.RegoV0, "data."+path+".allow", "package "+path+"\nallow = true").Name()
		assert.Less(t, len(name), 64)
		assert.True(t, utf8.ValidString(name))
	}
}

// What check_method may be. Whatever it is, it is never an allow by itself: the policies here allow everything.
func TestCheckMethod(t *testing.T) {
	t.Parallel()
	const (
		none  = "is no reference to a rule"
		other = "names no rule of the policy"
	)
	plain := []string{"package p\nallow = true\nf(x) = true\nlist = [true]\nobject = {\"allow\": true}\ndefault given = true"}
	for _, test := range []struct {
		name, method string
		modules      []string
		// problem is empty where the policy decides, and then it allows.
		problem string
	}{
		{"rule", "data.p.allow", plain, ""},
		{"default", "data.p.given", plain, ""},
		{"rule in brackets", `data.p["allow"]`, plain, ""},
		{"rule in raw brackets", "data.p[`allow`]", plain, ""},
		{"package in brackets", `data["p"].allow`, plain, ""},
		{"escaped", `data.p["\u0061llow"]`, plain, ""},
		{"white space around", " data.p.allow\n", plain, ""},
		{"object", "data.p.object", plain, ""},
		{"below a rule", "data.p.object.allow", plain, ""},
		{"element", "data.p.list[0]", plain, ""},
		{"keyword as a package", "data.if.allow", []string{"package if\nallow = true"}, ""},
		{"keyword as a rule", "data.p.in", []string{"package p\nin = true"}, ""},
		{"longer package", "data.a.b.c.allow", []string{"package a.b.c\nallow = true"}, ""},
		{"second module", "data.q.allow", []string{"package p\nx = 1", "package q\nallow { data.p.x == 1 }"}, ""},
		{"rule of two modules", "data.p.allow", []string{"package p\nallow { false }", "package p\nallow { true }"}, ""},
		{"rules of one object", "data.p.decision", []string{"package p\ndecision.allow = true\ndecision.reason = \"x\""}, ""},

		{"empty", "", plain, none},
		{"blank", "  ", plain, none},
		{"data alone", "data", plain, none},
		{"without data", "p.allow", plain, none},
		{"input", "input.allow", plain, none},
		{"variable", "data.p[x]", plain, none},
		{"wildcard", "data.p[_]", plain, none},
		{"wildcard below a rule", "data.p.object[_]", plain, none},
		{"comparison", "data.p.allow == true", plain, none},
		{"assignment", "x := data.p.allow", plain, none},
		{"call", "data.p.f(1)", plain, none},
		{"negation", "not data.p.allow", plain, none},
		{"replaced input", "data.p.allow with input as {}", plain, none},
		{"two expressions", "data.p.allow; true", plain, none},
		{"two lines", "data.p.allow\ntrue", plain, none},
		{"comment", "data.p.allow # x", plain, none},
		{"object around", "{data.p.allow}", plain, none},
		{"end missing", "data.p.", plain, none},
		{"bracket open", `data.p["allow"`, plain, none},
		{"quote open", `data.p["allow]`, plain, none},
		{"bad escape", `data.p["\q"]`, plain, none},
		{"constant", "true", plain, none},
		{"string", `"data.p.allow"`, plain, none},
		{"reference in a reference", "data.p[data.p.x]", plain, none},
		{"deeply nested", "data.p[" + strings.Repeat("[1|", 300) + "true" + strings.Repeat("]", 300) + "]", plain, none},

		{"missing rule", "data.p.missing", plain, other},
		{"missing package", "data.q.allow", plain, other},
		{"number for a rule", "data.p[1]", plain, other},
		// A package is an object of its rules, and would pass for a result object.
		{"package", "data.p", []string{"package p\nallow = true"}, other},
		{"package above", "data.a", []string{"package a.b\nallow = true"}, other},
		{"package called allow", "data.a", []string{"package a.allow\nallow = true"}, other},
		{"package and rule in one", "data.a.b", []string{"package a\nb.allow = true", "package a.b.c\nx = true"}, other},
		{"function", "data.p.f", plain, "used as reference"},
		{"below a bool", "data.p.allow.x", plain, "undefined ref"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			checks, problems := rego.Kind{}.Compile(handler(config.RegoV0, test.method, test.modules...))
			if test.problem == "" {
				require.Empty(t, problems)
				require.Len(t, checks, 1)
				assert.Equal(t, policy.Passed, checks[0].Evaluate(t.Context(), &policy.Request{}).Result)
				return
			}
			assert.Empty(t, checks)
			require.Len(t, problems, 1)
			assert.Equal(t, "check_method", problems[0].Field)
			assert.Contains(t, problems[0].Text, test.problem)
		})
	}
}

// OPA 1.21.0 to 1.22.0 left rules out that want to be one of several, of which not all are constants: a rule that denies never came to it.
func TestOneOfSeveral(t *testing.T) {
	t.Parallel()
	request := &policy.Request{Subject: &policy.Subject{User: "eve"}, Identity: "eve"}
	for _, several := range []string{`["mallory", input.key]`, `{"mallory", input.key}`, `{"x": "mallory", "y": input.key}`, `["mallory", banned]`, `[["mallory"], banned]`} {
		for version, module := range map[config.RegoVersion]string{
			config.RegoV0: "package p\nimport future.keywords.in\nbanned = \"eve\"\ndefault allow = true\nallow = false { input.subject.user in " + several + " }",
			config.RegoV1: "package p\nbanned := \"eve\"\ndefault allow := true\nallow := false if input.subject.user in " + several,
		} {
			assert.Equal(t, policy.Denied, compile(t, version, "data.p.allow", module).Evaluate(t.Context(), request).Result, module)
		}
	}
}

// Every problem of every module is told, with its place, and the same way each time.
func TestProblems(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		version config.RegoVersion
		modules []string
		want    string
	}{
		{"empty module", config.RegoV0, []string{""}, "policy[0]:0:0: rego_parse_error: empty module"},
		{"comment alone", config.RegoV0, []string{"# nothing"}, "policy[0]:0:0: rego_parse_error: empty module"},
		{"no package", config.RegoV0, []string{"allow = true"}, "policy[0]:1:1: rego_parse_error: package expected"},
		{"package alone", config.RegoV0, []string{"package p"}, `check_method: "data.p.allow" names no rule of the policy; the policy's packages are p`},
		{"no Rego", config.RegoV0, []string{"SELECT 1"}, "policy[0]:1:1: rego_parse_error: package expected"},
		{"each module's", config.RegoV0, []string{"package p\nallow {", "package p\nallow = true", "package p\nallow }"}, "policy[0]:2:7: rego_parse_error: unexpected eof token; policy[2]:2:7: rego_parse_error: unexpected } token"},
		{"several of one module", config.RegoV0, []string{"package p\nallow { x }\nb { y }"}, "policy[0]:2:9: rego_unsafe_var_error: var x is unsafe; policy[0]:3:5: rego_unsafe_var_error: var y is unsafe"},
		{"today's syntax in the older language", config.RegoV0, []string{"package p\nallow if true"}, "policy[0]:2:"},
		{"the older syntax in today's language", config.RegoV1, []string{"package p\nallow { true }"}, "policy[0]:2:1: rego_parse_error: `if` keyword is required before rule body"},
		{"recursion", config.RegoV0, []string{"package p\nallow { b }\nb { allow }"}, "rego_recursion_error"},
		{"unknown built-in", config.RegoV0, []string{"package p\nallow { no.such(1) }"}, "policy[0]:2:9: rego_type_error: undefined function no.…"},
		{"too many arguments", config.RegoV0, []string{"package p\nallow { regex.match(1, 2, 3, 4) }"}, "policy[0]:2:9: rego_type_error: regex.match: arity mismatch"},
		{"same packages once", config.RegoV0, []string{"package q\nx = 1", "package p\nx = 1", "package p\ny = 1"}, `the policy's packages are p, q`},
		{"a very long name", config.RegoV0, []string{"package p\nallow { " + strings.Repeat("x", 1<<16) + " }"}, "rego_unsafe_var_error: var xxx"},
		{"a very long package", config.RegoV0, []string{"package p" + strings.Repeat("x", 1<<16) + "\nallow = true"}, "the policy's packages are pxxx"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			checks, problems := rego.Kind{}.Compile(handler(test.version, "data.p.allow", test.modules...))
			assert.Empty(t, checks)
			require.NotEmpty(t, problems)
			text := problems.Error()
			assert.Contains(t, text, test.want)
			assert.Less(t, len(text), 4096)
			for range 2 {
				_, again := rego.Kind{}.Compile(handler(test.version, "data.p.allow", test.modules...))
				assert.Equal(t, problems, again)
			}
		})
	}
}

// Two modules may be of different syntax by their imports, and a check decides by both.
func TestSeveralModules(t *testing.T) {
	t.Parallel()
	check := compile(t, config.RegoV0, "data.p.allow",
		"package p\nallow { data.lists.admins[input.subject.user] }",
		"package lists\nimport rego.v1\nadmins contains x if some x in [\"alice\", \"bob\"]")
	v := check.Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: "alice"}})
	assert.Equal(t, policy.Passed, v.Result)
	v = check.Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: "carol"}})
	require.NotNil(t, v.Failure)
	assert.Equal(t, config.UndefinedResult, v.Failure.Class)
}

// OPA's parser takes gigabytes for a megabyte of these.
func TestTemplateStringsAreBounded(t *testing.T) {
	t.Parallel()
	for _, source := range []string{strings.Repeat(`$"{`, 350_000), strings.Repeat("$`{", 350_000)} {
		checks, problems := rego.Kind{}.Compile(handler(config.RegoV1, "data.p.allow", "package p\nallow if "+source))
		assert.Empty(t, checks)
		require.Len(t, problems, 1)
		assert.Equal(t, "policy[0]", problems[0].Field)
		assert.Contains(t, problems[0].Text, "more than 1000 template strings")
	}
}

// Each level of these takes OPA's compiler two to three times as long, so beyond a few the compiler would not end.
func TestNestingIsBounded(t *testing.T) {
	t.Parallel()
	nest := func(open, inner, end string, depth int) string {
		return strings.Repeat(open, depth) + inner + strings.Repeat(end, depth)
	}
	for name, expression := range map[string]func(depth int) string{
		"arrays":    func(depth int) string { return nest("[1 | ", "true", "]", depth) },
		"sets":      func(depth int) string { return nest("{1 | ", "true", "}", depth) },
		"objects":   func(depth int) string { return nest(`{"a": 1 | `, "true", "}", depth) },
		"heads":     func(depth int) string { return nest("[", "1", " | true]", depth) },
		"calls":     func(depth int) string { return nest("count([1 | ", "true", "])", depth) },
		"templates": func(depth int) string { return nest(`$"{`, "1", `}"`, depth) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compileDepth := func(depth int) ([]policy.Check, config.Problems) {
				return rego.Kind{}.Compile(handler(config.RegoV1, "data.p.allow", "package p\nallow if "+expression(depth)))
			}
			checks, problems := compileDepth(8)
			assert.Empty(t, problems)
			assert.Len(t, checks, 1)
			for _, depth := range []int{9, 64, 900} {
				checks, problems = compileDepth(depth)
				assert.Empty(t, checks)
				require.Len(t, problems, 1)
				assert.Equal(t, "policy[0]", problems[0].Field)
				assert.Contains(t, problems[0].Text, "more than 8 deep")
			}
		})
	}
	// Data may be nested as deep as it likes, and so may calls.
	for _, expression := range []string{nest("[", "1", "]", 1000), nest(`{"a":`, "1", "}", 1000), nest("abs(", "1", ")", 200)} {
		checks, problems := rego.Kind{}.Compile(handler(config.RegoV1, "data.p.allow", "package p\nx := "+expression+"\nallow := true"))
		assert.Empty(t, problems)
		assert.Len(t, checks, 1)
	}
	// A parser that recursed without a bound would end the process here.
	for _, open := range []string{"[", "abs("} {
		checks, problems := rego.Kind{}.Compile(handler(config.RegoV1, "data.p.allow", "package p\nx := "+strings.Repeat(open, 110_000)))
		assert.Empty(t, checks)
		assert.NotEmpty(t, problems)
	}
}

// A policy may hold a credential, as a constant or in a comment, and problems go to logs. The files of testdata/constants hold it
// in every place that a constant can be in; each is broken here in many ways, and no problem shows it.
func TestProblemsShowNoConstant(t *testing.T) {
	t.Parallel()
	if rego.Raced {
		t.Skip("it takes long, and has no two goroutines that share anything")
	}
	const planted = "hunter2"
	files, err := filepath.Glob("testdata/constants/*.rego")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			source, err := os.ReadFile(file)
			require.NoError(t, err)
			reported := 0
			try := func(source string) {
				for _, version := range []config.RegoVersion{config.RegoV0, config.RegoV1} {
					_, problems := rego.Kind{}.Compile(handler(version, "data.p.nothing", source))
					reported += len(problems)
					for _, problem := range problems {
						if strings.Contains(problem.String(), planted) {
							t.Fatalf("%s\nof\n%s", problem, source)
						}
					}
				}
			}
			for i := range source {
				if bytes.HasPrefix(source[i:], []byte(planted)) || i%5 == 0 {
					try(string(source[:i]))
					for _, insert := range []string{`"`, "`", "}", "x"} {
						// Not into the credential: half of it is another.
						if inside := strings.Contains(string(source[max(0, i-len(planted)+1):min(len(source), i+len(planted)-1)]), planted); !inside {
							try(string(source[:i]) + insert + string(source[i:]))
						}
					}
				}
			}
			// Every two lines as a module of their own.
			lines := strings.Split(string(source), "\n")
			for _, first := range lines {
				for _, second := range lines {
					try("package p\n" + first + "\n" + second)
				}
			}
			assert.Greater(t, reported, 100, "the files were broken")
		})
	}
}

// One compiled check serves many requests at once.
func TestConcurrentEvaluation(t *testing.T) {
	t.Parallel()
	check := compile(t, config.RegoV0, "data.p.allow", `package p
default allow = false
allow { input.subject.user == "alice" }`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	results := make(chan bool)
	const callers = 16
	for i := range callers {
		user := []string{"alice", "bob"}[i%2]
		go func() {
			right := true
			for range 100 {
				v := check.Evaluate(ctx, &policy.Request{Subject: &policy.Subject{User: user}})
				right = right && v.Failure == nil && (v.Result == policy.Passed) == (user == "alice")
			}
			results <- right
		}()
	}
	for range callers {
		assert.True(t, <-results)
	}
}
