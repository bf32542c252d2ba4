package rego_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestUnknownInputFields(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		version config.RegoVersion
		module  string
		want    string // of the first problem; nothing where there is none
	}{
		"all there are": {config.RegoV1, `allow if {
			input.subject.user; input.subject.groups[0]; input.subject.properties.anything
			input.action.namespace; input.action.service; input.action.method; input.action.path; input.action.properties.a.b
			input.token.realm.roles[_]; input.value; input.api.name; input.api.timestamp; input.api.key; input.key
		}`, ""},
		"misspelt":                    {config.RegoV1, `allow if input.subjct.user == "a"`, `policy[0]:2:10: input.subjct is in no input, so it would always be undefined; input has action, api, key, subject, token, value`},
		"misspelt in V0":              {config.RegoV0, `allow { input.request.method == "GET" }`, "policy[0]:2:9: input.request is in no input"},
		"the next level":              {config.RegoV1, `allow if input.subject.usr == "a"`, "policy[0]:2:10: input.subject.usr is in no input, so it would always be undefined; input.subject has user, groups, properties"},
		"brackets":                    {config.RegoV1, `allow if input["action"]["verb"] == "a"`, "policy[0]:2:10: input.action.verb is in no input"},
		"a number":                    {config.RegoV1, `allow if input[0] == "a"`, "policy[0]:2:10: input[0] is in no input"},
		"not, which would allow":      {config.RegoV1, `allow if not input.subject.banned`, "policy[0]:2:14: input.subject.banned is in no input"},
		"behind an alias":             {config.RegoV1, "import input.subject as s\nallow if s.usr == \"a\"", "input.subject.usr is in no input"},
		"an alias of what is unknown": {config.RegoV1, "import input.request as r\nallow if r.method == \"a\"", "input.request is in no input"},
		"in a function":               {config.RegoV1, "allow if f(1)\nf(x) if input.subjct == x", "input.subjct is in no input"},
		"as an argument":              {config.RegoV1, `allow if startswith(input.acton.path, "/")`, "input.acton is in no input"},
		"in a comprehension":          {config.RegoV1, `allow if count([x | x := input.subject.group[_]]) > 0`, "input.subject.group is in no input"},
		"in every":                    {config.RegoV1, `allow if every g in input.subject.grps { g == "a" }`, "input.subject.grps is in no input"},
		"in a head":                   {config.RegoV1, `allow := input.subjct`, "input.subjct is in no input"},
		"in else":                     {config.RegoV1, "allow if false\nelse if input.subjct", "input.subjct is in no input"},
		"in else of another rule":     {config.RegoV1, "allow if { b }\nb := false if false\nelse := true if input.subjct", "input.subjct is in no input"},
		"in a default function":       {config.RegoV1, "allow if f(1)\ndefault f(_) := false\nf(x) if x == input.subject.usr", "input.subject.usr is in no input"},
		"behind a dynamic reference":  {config.RegoV1, "allow if data.p.methods[input.action.method]\nmethods.GET if input.subjct", "input.subjct is in no input"},
		"in a partial set":            {config.RegoV1, "allow if { \"a\" in s }\ns contains \"a\" if input.subjct", "input.subjct is in no input"},
		"as the value of with":        {config.RegoV1, "allow if other with data.x as input.subjct\nother if data.x", "input.subjct is in no input"},
		"a dynamic key":               {config.RegoV1, `allow if { k := "subjct"; input[k] }`, ""},
		"any key":                     {config.RegoV1, `allow if input[_].user == "a"`, ""},
		"any key of the subject":      {config.RegoV1, `allow if input.subject[_] == "a"`, ""},
		"the whole input":             {config.RegoV1, `allow if { x := input; x.subjct }`, ""},
		"object.get":                  {config.RegoV1, `allow if object.get(input, ["subjct"], "") == ""`, ""},
		"walk":                        {config.RegoV1, `allow if { walk(input, [["subjct"], _]) }`, ""},
		"another input":               {config.RegoV1, "allow if other with input as {\"request\": 1}\nother if input.request == 1", ""},
		"another member":              {config.RegoV1, "allow if other with input.request.method as \"GET\"\nother if input.request.method == \"GET\"", ""},
		"another member, not this":    {config.RegoV1, "allow if other with input.request.method as \"GET\"\nother if input.requst.method == \"GET\"", "input.requst is in no input"},
		"what the rule cannot reach":  {config.RegoV1, "allow if input.subject.user == \"a\"\nelsewhere if input.request", ""},
		"below a text":                {config.RegoV1, `allow if input.subject.user.name == "a"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := rego.Kind{}.Compile(handler(c.version, "data.p.allow", "package p\n"+c.module))
			if c.want == "" {
				assert.Empty(t, problems)
				return
			}
			require.NotEmpty(t, problems)
			assert.Contains(t, problems[0].String(), c.want)
		})
	}
}

// Every place is told, once.
func TestUnknownInputFieldsTellAll(t *testing.T) {
	t.Parallel()
	_, problems := rego.Kind{}.Compile(handler(config.RegoV1, "data.p.allow",
		"package p\nallow if { input.a; input.b; data.q.r }\nallow if input.a", "package q\nr if input.c"))
	var places []string
	for _, problem := range problems {
		place, _, _ := strings.Cut(problem.String(), " ")
		places = append(places, place)
	}
	assert.Equal(t, []string{"policy[0]:2:12:", "policy[0]:2:21:", "policy[0]:3:10:", "policy[1]:2:6:"}, places)
}

// Whether somebody listens to print makes no difference to what is refused.
func TestUnknownInputFieldsOfPrint(t *testing.T) {
	t.Parallel()
	for _, options := range []rego.Options{{}, {Print: func(rego.Printed) {}}} {
		kind := rego.Kind{Environment: rego.NewEnvironment(options)}
		for body, refused := range map[string]bool{
			"print(\"the request is\", input.request, input.subjct.user); true":        false,
			"print(input.action.path, [x | x := input.request.x]); input.subject.user": false,
			"print(input.request); input.subjct":                                       true,
			"x := input.subjct; print(x)":                                              true,
		} {
			_, problems := kind.Compile(handler(config.RegoV1, "data.p.allow", "package p\nallow if { "+body+" }"))
			assert.Equal(t, refused, len(problems) > 0, "%s: %v", body, problems)
		}
	}
}
