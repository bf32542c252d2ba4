package rego

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
)

// generator makes policies and requests by chance. The texts in them are few, so that requests meet what policies ask for, and requests
// resemble each other in some parts and not in others.
type generator struct {
	*rand.Rand
	version ast.RegoVersion
	// made counts the constructs of all policies, by name.
	made map[string]int

	// focus is a part of the input that a quarter of the references are to; empty for none.
	focus string

	// What the rule in work may refer to.
	helpers, sets, objects, functions, general int
	names                                      int // of variables
}

// generated is a policy with two generations of its data.
type generated struct {
	modules []string
	data    [2]map[string]any
}

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g *generator) note(construct string) { g.made[construct]++ }

// policy makes a policy whose decision is data.p.allow.
func (g *generator) policy() generated {
	g.helpers, g.sets, g.objects, g.functions, g.general = 0, 0, 0, 0, 0
	lib := g.module("lib", "")
	lib += g.rule("a", "1", g.body(0)) + g.rule("b", `"b"`, g.body(0)) + "c(_) = 1\n"
	lib += g.rule("f(x)", "x", "is_string(x)") + g.rule("g(x)", `"a"`, "x != 1") + g.rule("user(x)", "x.subject.user", "true")
	p := g.module("p", "import data.lib\nimport input.subject as who\nimport input.token\n")
	for range g.IntN(4) {
		p += g.definition()
	}
	p += g.decision()
	return generated{
		modules: []string{p, lib},
		data: [2]map[string]any{
			{"d": map[string]any{"users": map[string]any{"a": "x", "b": "y"}, "list": []any{"a", "b"}, "n": json.Number("1"), "null": nil}},
			{"d": map[string]any{"users": map[string]any{"a": "y", "": "x"}, "list": []any{}, "n": json.Number("2"), "null": nil}},
		},
	}
}

func (g *generator) module(name, imports string) string {
	if g.version == ast.RegoV0 {
		imports = "import future.keywords.in\nimport future.keywords.every\n" + imports
	}
	return "package " + name + "\n" + imports
}

func (g *generator) rule(head, value, body string) string {
	if g.version == ast.RegoV0 {
		return head + " = " + value + " { " + body + " }\n"
	}
	return head + " := " + value + " if { " + body + " }\n"
}

func (g *generator) orElse(value, body string) string {
	g.note("else")
	if g.version == ast.RegoV0 {
		return "else = " + value + " { " + body + " }\n"
	}
	return "else := " + value + " if { " + body + " }\n"
}

func (g *generator) decision() string {
	out := ""
	value := func() string { return pick(g, "true", "true", "true", "false") }
	switch g.IntN(10) {
	case 0:
		g.note("result object")
		value = func() string {
			return g.one(`{"allow": true, "reason": sprintf("%v", [REF])}`, `{"allow": false, "reason": sprintf("%v", [REF])}`)
		}
	case 1:
		g.note("result with a message of the request")
		value = func() string { return g.one(`{"allow": false, "message": concat(",", ["m", REF])}`) }
	case 2:
		g.note("result of any type")
		value = func() string { return g.one("true", "false", `"no"`, "1", "null", "[]", "REF") }
	}
	if g.chance(80) {
		g.note("default")
		out += "default allow = " + pick(g, "false", "false", "true", `{"allow": false, "reason": "default"}`) + "\n"
	}
	for range 1 + g.IntN(2) {
		out += g.rule("allow", value(), g.body(2))
		if g.chance(25) {
			out += g.orElse(value(), g.body(2))
		}
	}
	return out
}

// definition makes a rule for those after it to refer to.
func (g *generator) definition() string {
	switch g.IntN(6) {
	case 5:
		if g.version == ast.RegoV0 {
			return ""
		}
		g.note("general reference")
		name, key, member := fmt.Sprintf("m%d", g.general), g.variable(), g.variable()
		body := key + " := " + g.ref() + "; " + member + " := " + g.ref() + "; " + g.body(1)
		out := name + "[" + key + "] contains " + member + " if { " + body + " }\n"
		out += g.rule("n"+name[1:]+"."+pick(g, "a", "b")+".x", g.one("true", "REF"), g.body(1))
		g.general++
		return out
	case 0:
		g.note("partial set")
		name := fmt.Sprintf("s%d", g.sets)
		member, bind := g.ref(), g.variable()
		body := bind + " := " + member + "; " + g.body(1)
		g.sets++
		if g.version == ast.RegoV0 {
			return name + "[" + bind + "] { " + body + " }\n"
		}
		return name + " contains " + bind + " if { " + body + " }\n"
	case 1:
		g.note("partial object")
		name, key, value := fmt.Sprintf("o%d", g.objects), g.variable(), g.variable()
		body := key + " := " + g.ref() + "; " + value + " := " + g.ref() + "; " + g.body(1)
		g.objects++
		return g.rule(name+"["+key+"]", value, body)
	case 2:
		g.note("function")
		name := fmt.Sprintf("f%d", g.functions)
		out := g.rule(name+"(x)", pick(g, "true", "x", `"a"`), g.one("x == CONST; ", "x != CONST; ", "")+g.body(1))
		if g.chance(30) {
			g.note("function of two definitions")
			out += g.rule(name+"(x)", pick(g, "true", `"b"`), "x == "+g.constant()+"; "+g.body(1))
		}
		if g.chance(20) {
			out += g.orElse(`"c"`, g.body(1))
		}
		g.functions++
		return out
	default:
		g.note("helper rule")
		name := fmt.Sprintf("h%d", g.helpers)
		out := ""
		if g.chance(40) {
			g.note("default")
			out = "default " + name + " = " + pick(g, "false", "1", `"a"`) + "\n"
		}
		value := g.one("true", "1", `"a"`, "REF")
		out += g.rule(name, value, g.body(1))
		if g.chance(25) {
			out += g.orElse(pick(g, "2", `"b"`, "false"), g.body(1))
		}
		if g.chance(30) {
			g.note("helper of two definitions")
			out += g.rule(name, pick(g, value, value, "2", `"b"`), g.body(1))
		}
		g.helpers++
		return out
	}
}

func (g *generator) body(depth int) string {
	n := 1 + g.IntN(3)
	conditions := make([]string, n)
	for i := range conditions {
		conditions[i] = g.condition(depth)
	}
	return strings.Join(conditions, "; ")
}

func (g *generator) variable() string {
	g.names++
	return fmt.Sprintf("v%d", g.names)
}

var texts = []string{"", "a", "b", "ab", "x"}

func (g *generator) text() string { return pick(g, texts...) }

func (g *generator) constant() string {
	return pick(g, `"a"`, `"b"`, `"ab"`, `""`, "1", "true", "null", "1.5", `"10.0.0.1"`)
}

// ref makes a reference to a part of the input, mostly one that is there.
func (g *generator) ref() string {
	if g.focus != "" && g.chance(25) {
		return g.focus
	}
	switch g.IntN(24) {
	case 0:
		g.note("alias of a part")
		return pick(g, "who.user", "who.properties.p", "who.groups[0]", "token.sub", "token.aud")
	case 1:
		g.note("dynamic key")
		return "input.subject.properties[" + pick(g, "input.subject.user", "input.action.method", `concat("", ["p"])`) + "]"
	case 2:
		g.note("dynamic key of a member")
		return "input.subject[" + pick(g, `lower("USER")`, "input.key") + "]"
	case 3:
		if !g.chance(20) {
			return "input.subject.user"
		}
		g.note("dynamic key of the input")
		return "input[" + pick(g, `lower("VALUE")`, `lower("KEY")`) + "]"
	case 4:
		g.note("part that does not exist")
		return pick(g, "input.key.nothing", "input.subject.properties.nothing.at.all", "input.action.path.user", "input.subject.user.name", "input.token.sub.x")
	case 5:
		g.note("array element")
		return pick(g, "input.subject.groups[0]", "input.token.aud[1]", "input.subject.groups[_]", "input.token.aud[_]")
	case 6:
		g.note("object")
		return pick(g, "input.subject", "input.action", "input.api", "input.token", "input.token.nested", "input.subject.properties", "input.subject.groups")
	case 7, 8:
		g.note("claim")
		return pick(g, "input.token.sub", "input.token.nested.deep", "input.token.nested.deep.x", "input.token.null", "input.token.aud")
	case 9, 10:
		g.note("property of the action")
		return pick(g, "input.action.properties.p", "input.action.properties.q", `input.action.properties["x-y"]`)
	case 11, 12, 13, 14:
		g.note("property of the subject")
		return pick(g, "input.subject.properties.p", "input.subject.properties.q", `input.subject.properties["x-y"]`, `input.subject.properties["\ufffd"]`)
	default:
		g.note("member")
		return pick(g, "input.subject.user", "input.subject.user", "input.action.method", "input.action.path", "input.action.namespace", "input.action.service",
			"input.value", "input.key", "input.api.name", "input.api.version", "input.api.operation", "input.api.key", "input.api.timestamp")
	}
}

// one picks a template and fills it: REF with a reference to the input, CONST with a constant, X and Y with variables of its own.
func (g *generator) one(templates ...string) string {
	x, y := g.variable(), g.variable()
	return holes.ReplaceAllStringFunc(pick(g, templates...), func(place string) string {
		switch place {
		case "REF":
			return g.ref()
		case "CONST":
			return g.constant()
		case "X":
			return x
		default:
			return y
		}
	})
}

var holes = regexp.MustCompile(`\b(REF|CONST|X|Y)\b`)

// condition makes an expression.
func (g *generator) condition(depth int) string {
	if depth == 0 || g.chance(45) {
		return g.simple()
	}
	for {
		c := constructs[g.IntN(len(constructs))]
		switch {
		case c.name == "call of a rule":
			if call := g.call(); call != "" {
				g.note(c.name)
				return call
			}
		case c.seldom != 0 && !g.chance(c.seldom):
		default:
			g.note(c.name)
			return g.one(c.templates...)
		}
	}
}

func (g *generator) simple() string {
	switch g.IntN(10) {
	case 0:
		g.note("not")
		return g.one("not REF", "not REF == CONST")
	case 1:
		return g.one("REF", "REF == REF")
	case 2, 3:
		return g.one("REF != CONST")
	default:
		return g.one("REF == CONST")
	}
}

// constructs are what conditions are made of, besides comparisons.
var constructs = []struct {
	name      string
	templates []string
	seldom    int // percent of the times it is kept; 0 is always
}{
	{name: "call of a rule"},
	{name: "call of a rule"},
	{name: "call of a rule"},
	{name: "call of a rule"}, // as often as four others
	{name: "with input", seldom: 30, templates: []string{
		`data.lib.a with input.subject.user as "a"`, `data.lib.a with input.subject.user as REF`, `not data.lib.b with input.key as "b"`,
		`data.lib.a with input as {"subject": {"user": REF}, "key": "a"}`, `data.lib.b with input.token.nested.deep as REF with input.value as 1`,
	}},
	{name: "with data", templates: []string{
		`data.lib.a == X with data.lib.a as REF; X == CONST`, `X := data.lib.a with data.lib.a as REF; X == CONST`, `not data.lib.b with data.lib.b as REF`,
		`data.d.n == 1 with data.d.n as 2`, `data.d.n == 2 with data.d.n as input.value`, `data.d.users[input.subject.user] with data.d.users as {"a": REF}`,
	}},
	{name: "with a built-in or a function", templates: []string{
		`count(REF) == 1 with count as data.lib.c`, `data.lib.f(REF) with data.lib.f as is_string`, `data.lib.f(REF) with data.lib.f as true`,
		`data.lib.f(REF) with is_string as data.lib.g`, `lower(REF) == "a" with lower as data.lib.g`,
	}},
	{name: "input as a value", seldom: 30, templates: []string{`X := input; X.subject.user == CONST`, `X = input; X.value == CONST`, `[X] := [input]; X.key == CONST`}},
	{name: "input as an argument", seldom: 30, templates: []string{
		`json.filter(input, ["subject/user", "key"]) == {"subject": {"user": "a"}}`, `object.get(input, ["action", "method"], "a") == "a"`,
		`count(input) == 3`, `json.marshal(input) != "{}"`, `data.lib.user(input) == CONST`,
	}},
	{name: "part as an argument", templates: []string{
		`object.get(input.subject, "user", "a") == "a"`, `json.marshal(input.token) == "{}"`, `count(input.subject.properties) == 1`,
		`"a" == object.get(input.subject.properties, "p", "a")`, `data.lib.user({"subject": input.subject}) == CONST`,
	}},
	{name: "walk", seldom: 30, templates: []string{
		`walk(input, [_, X]); X == CONST`, `walk(input.token, [Y, X]); X == "a"; count(Y) > 0`, `walk(input.subject, [["properties", Y], X]); X == CONST`,
	}},
	{name: "array comprehension", templates: []string{`count([X | X := REF; X != CONST]) == 1`, `[X | X := input.subject.properties[_]] == [CONST]`}},
	{name: "set comprehension", templates: []string{`count({X | X := input.subject.properties[_]; X != CONST}) == 1`, `CONST in {X | X := input[_]}`, `{X | X := REF} == {CONST}`}},
	{name: "object comprehension", templates: []string{`count({Y: X | X := input.subject.properties[Y]}) > 0`, `{X: Y | X := REF; Y := REF}[CONST] == CONST`}},
	{name: "every", templates: []string{
		`every X in input.token.aud { X != "b" }`, `every X in ["a", "b"] { X != input.subject.user }`, `every Y, X in input.subject.properties { X != CONST; Y != "p" }`,
	}},
	{name: "some in", templates: []string{`some Y, X in input.subject.properties; X == CONST; Y != "q"`, `some X in input.subject.groups; X == CONST`, `some Y; input[Y] == CONST`}},
	{name: "membership", templates: []string{`CONST in input.token.aud`, `CONST in input.subject.groups`, `REF in data.d.list`, `REF in {"a", "b"}`, `REF in ["a", REF]`, `REF in {REF, "b"}`}},
	{name: "data of another type", templates: []string{
		`upper(REF) == data.d.null`, `not upper(REF) == data.d.null`, `not count(REF) == data.d.null`, `not upper(REF) in [data.d.null]`, `X := upper(REF) in [data.d.null]; X == false`,
	}},
	{name: "data by a part of the input", templates: []string{
		`data.d.users[input.subject.user] == "x"`, `data.d.list[_] == REF`, `data.lib[input.subject.user]`, `data.lib[input.key] == "b"`, `data.d[REF]`,
	}},
	{name: "built-in with errors", templates: []string{
		`startswith(REF, "a")`, `to_number(REF) == 1`, `upper(REF) == "A"`, `count(REF) > 0`, `REF + 1 == 2`, `not startswith(REF, "a")`,
		`net.cidr_contains("10.0.0.0/8", REF)`, `not regex.match(REF, "a")`, `json.unmarshal(REF) == 1`,
	}},
	{name: "built-in", templates: []string{`is_string(REF)`, `type_name(REF) == "null"`, `sprintf("%v", [REF]) == "a"`, `REF < CONST`, `REF >= REF`, `json.marshal(REF) == "1"`}},
	{name: "volatile built-in", seldom: 40, templates: []string{
		`time.now_ns() > 0`, `rand.intn("x", 1) == 0`, `is_string(X) with uuid.rfc4122 as data.lib.g; X := "a"`, `data.lib.g(REF) == "a" with data.lib.g as uuid.rfc4122`,
	}},
}

// call makes a reference to one of the rules that were defined before; nothing if there is none.
func (g *generator) call() string {
	var templates []string
	for i := range g.helpers {
		templates = append(templates, fmt.Sprintf("h%d", i), fmt.Sprintf("not h%d", i), fmt.Sprintf("h%d == CONST", i))
	}
	for i := range g.sets {
		templates = append(templates, fmt.Sprintf("s%d[CONST]", i), fmt.Sprintf("s%d[REF]", i), fmt.Sprintf("count(s%d) == 1", i), fmt.Sprintf("not s%d[CONST]", i))
	}
	for i := range g.objects {
		templates = append(templates, fmt.Sprintf("o%d.a == CONST", i), fmt.Sprintf("o%d[REF]", i), fmt.Sprintf("o%d[REF] == CONST", i))
	}
	for i := range g.functions {
		templates = append(templates, fmt.Sprintf("f%d(REF)", i), fmt.Sprintf("not f%d(REF)", i), fmt.Sprintf("f%d(REF) == CONST", i), fmt.Sprintf("is_object(f%d(input))", i))
	}
	for i := range g.general {
		templates = append(templates, fmt.Sprintf("m%d[CONST][REF]", i), fmt.Sprintf("count(m%d) == 1", i), fmt.Sprintf("m%d.a[_] == CONST", i), fmt.Sprintf("not m%d[REF].b", i),
			fmt.Sprintf("n%d.a.x", i), fmt.Sprintf("not n%d.a.x", i), fmt.Sprintf("n%d[REF].x == CONST", i), fmt.Sprintf("count(n%d) == 1", i))
	}
	if len(templates) == 0 {
		return ""
	}
	return g.one(templates...)
}

// request makes a request.
func (g *generator) request() *policy.Request {
	r := &policy.Request{Instance: g.text()}
	if g.chance(90) {
		r.Subject = &policy.Subject{User: g.text(), Groups: g.text(), Properties: g.properties()}
	}
	if g.chance(90) {
		r.Action = &policy.Action{Namespace: g.text(), Service: g.text(), Method: g.text(), Path: g.text(), Properties: g.properties()}
	}
	if g.chance(50) {
		r.Claims = map[string]any{}
		for _, claim := range []struct {
			name  string
			value any
		}{
			{"sub", pick[any](g, "", "a", "b", nil, json.Number("1"))},
			{"aud", pick[any](g, "a", []any{"a", "b"}, []any{}, []any{"b"}, map[string]any{"0": "a"}, nil)},
			{"nested", pick[any](g, map[string]any{}, map[string]any{"deep": map[string]any{"x": g.text()}}, map[string]any{"deep": nil}, map[string]any{"deep": "a"}, "a")},
			{"null", nil},
		} {
			if g.chance(70) {
				r.Claims[claim.name] = claim.value
			}
		}
	}
	if g.chance(50) {
		v := g.value()
		r.Value = &v
	}
	if g.chance(50) {
		r.API = &policy.API{}
		if g.chance(80) {
			*r.API = policy.API{Name: g.text(), Version: g.text(), Operation: g.text(), Key: g.text()}
		}
		if g.chance(30) {
			v := attribute.OfTimestamp(int64(g.IntN(2)), 0)
			r.API.Time = &v
		}
	}
	r.Identity = g.text()
	return r
}

func (g *generator) properties() attribute.Map {
	var all attribute.Map
	for range g.IntN(4) {
		all = append(all, attribute.Entry{Name: pick(g, "p", "p", "q", "x-y", "a", "", "\xff", "\xfe", "�"), Value: g.value()})
	}
	return all
}

func (g *generator) value() attribute.Value {
	switch g.IntN(40) {
	case 0, 1:
		return attribute.OfInt64(int64(g.IntN(2)))
	case 2, 3:
		return attribute.OfBool(g.IntN(2) == 0)
	case 4, 5:
		return attribute.OfDouble(pick(g, 0, 1, 1.5, math.Copysign(0, -1)))
	case 6, 7:
		return attribute.OfIP(pick(g, "\x0a\x00\x00\x01", "\x0b\x00\x00\x01", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01"))
	case 8:
		return attribute.OfTimestamp(int64(g.IntN(2)), int32(g.IntN(2)))
	case 9:
		return attribute.OfDuration(int64(g.IntN(2)), 0)
	case 10:
		return attribute.OfText(attribute.URI, g.text())
	case 11:
		if g.chance(20) {
			return pick(g, attribute.Value{}, attribute.OfDouble(math.NaN()), attribute.OfDouble(math.Inf(1)))
		}
		return attribute.OfText(attribute.String, "\xff"+g.text())
	default:
		return attribute.OfText(attribute.String, g.text())
	}
}

// alike returns a request that is the first in all but one part, which is the second's.
func (g *generator) alike(one, other *policy.Request) *policy.Request {
	r := *one
	subject, action, call := *subject(one), *action(one), *api(one)
	r.Subject, r.Action = &subject, &action
	switch g.IntN(16) {
	case 0:
		r.Subject.User = g.text()
	case 1:
		r.Subject.Groups = g.text()
	case 2, 3:
		r.Subject.Properties = g.properties()
	case 4:
		r.Action.Method = g.text()
	case 5:
		r.Action.Path, r.Action.Namespace, r.Action.Service = g.text(), g.text(), g.text()
	case 6:
		r.Action.Properties = g.properties()
	case 7, 8:
		r.Claims = other.Claims
	case 9:
		r.Value = other.Value
	case 10:
		r.API = other.API
	case 11:
		call.Name, r.API = g.text(), &call
	case 12:
		call.Version, call.Operation, r.API = g.text(), g.text(), &call
	case 13:
		call.Key, r.API = g.text(), &call
	case 14:
		call.Time, r.API = api(other).Time, &call
	default:
		r.Identity = other.Identity
	}
	return &r
}
