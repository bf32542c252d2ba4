package rego_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

// handler is a handler with a policy, as config.Parse makes them.
func handler(version config.RegoVersion, method string, modules ...string) *config.Handler {
	return &config.Handler{
		Fingerprint: "0123456789ab",
		Rego:        &config.RegoPolicy{Modules: modules, Decision: method, Version: version},
		Allow:       config.Lifetime{Duration: 5 * time.Second, Uses: 10_000},
		Denial: config.Denial{
			Code: config.PermissionDenied, Message: "not authorized",
			HTTP: &config.HTTPResponse{Status: 403},
		},
	}
}

// compile makes the check of a policy that has no problem.
func compile(tb testing.TB, version config.RegoVersion, method string, modules ...string) policy.Check {
	tb.Helper()
	checks, problems := rego.Kind{}.Compile(handler(version, method, modules...))
	require.Empty(tb, problems)
	require.Len(tb, checks, 1)
	return checks[0]
}

// resultCase is one entry of testdata/results.yaml.
type resultCase struct {
	Name, Value, Module, Version string
	Want, Detail, Reason         string
	Code                         string
	Message                      *string
	Status                       *int32
	Body                         string
	Headers                      map[string]string
	Lifetime                     string
}

func TestResults(t *testing.T) {
	t.Parallel()
	file, err := os.Open("testdata/results.yaml")
	require.NoError(t, err)
	defer file.Close()
	decoder := yaml.NewDecoder(file)
	decoder.KnownFields(true)
	var cases []resultCase
	require.NoError(t, decoder.Decode(&cases))
	names := map[string]bool{}
	for _, test := range cases {
		require.False(t, names[test.Name], "two cases are called %s", test.Name)
		names[test.Name] = true
		t.Run(test.Name, func(t *testing.T) {
			t.Parallel()
			module, version := test.Module, config.RegoV0
			if test.Value != "" {
				module = "allow = " + test.Value + " { true }"
			}
			if test.Version == "V1" {
				version = config.RegoV1
			}
			v := compile(t, version, "data.p.allow", "package p\n"+module).Evaluate(t.Context(), &policy.Request{})
			switch test.Want {
			case "pass", "deny":
				require.Nil(t, v.Failure)
				checkAnswer(t, test, v)
			default:
				require.NotNil(t, v.Failure)
				assert.Equal(t, policy.Failed, v.Result)
				assert.Equal(t, test.Want, v.Failure.Class.String())
				assert.Contains(t, v.Failure.Detail, test.Detail)
				assert.Nil(t, v.Denial)
				assert.Zero(t, v.Lifetime)
			}
		})
	}
}

func checkAnswer(t *testing.T, test resultCase, v policy.Verdict) {
	t.Helper()
	var lifetime config.Lifetime
	if duration, uses, ok := strings.Cut(test.Lifetime, " "); ok {
		d, err := time.ParseDuration(duration)
		require.NoError(t, err)
		n, err := strconv.ParseInt(uses, 10, 32)
		require.NoError(t, err)
		lifetime = config.Lifetime{Duration: d, Uses: int32(n)}
	}
	assert.Equal(t, lifetime, v.Lifetime)
	if test.Reason != "" {
		assert.Equal(t, test.Reason, v.Reason)
	}
	if test.Want == "pass" {
		assert.Equal(t, policy.Passed, v.Result)
		assert.Nil(t, v.Denial)
		return
	}
	assert.Equal(t, policy.Denied, v.Result)
	if test.Message == nil && test.Status == nil {
		return
	}
	require.NotNil(t, v.Denial)
	want := config.PermissionDenied
	if test.Code != "" {
		var ok bool
		want, ok = config.DenialCode(test.Code)
		require.True(t, ok)
	}
	assert.Equal(t, want, v.Denial.Code)
	if test.Message != nil {
		assert.Equal(t, *test.Message, v.Denial.Message)
	}
	if test.Status != nil {
		require.NotNil(t, v.Denial.HTTP)
		assert.Equal(t, *test.Status, v.Denial.HTTP.Status)
		assert.Equal(t, test.Body, v.Denial.HTTP.Body)
		if len(test.Headers) > 0 {
			assert.Equal(t, test.Headers, v.Denial.HTTP.Headers)
		} else {
			assert.Empty(t, v.Denial.HTTP.Headers)
		}
	}
}

// A result that states a denial leaves the handler's own as it is for the next request.
func TestDenialIsACopy(t *testing.T) {
	t.Parallel()
	h := handler(config.RegoV0, "data.p.allow", `package p
allow = {"allow": false, "message": input.subject.user, "headers": {"a": input.subject.user}}`)
	checks, problems := rego.Kind{}.Compile(h)
	require.Empty(t, problems)
	first := checks[0].Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: "alice"}})
	second := checks[0].Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: "bob"}})
	assert.Equal(t, "alice", first.Denial.Message)
	assert.Equal(t, "alice", first.Denial.HTTP.Headers["a"])
	assert.Equal(t, "bob", second.Denial.Message)
	assert.Equal(t, "not authorized", h.Denial.Message)
	assert.Equal(t, int32(403), h.Denial.HTTP.Status)
}

// What goes wrong with a result is said without what the policy took from the request.
func TestErrorsShowNoInput(t *testing.T) {
	t.Parallel()
	const presented = "hunter2"
	for _, value := range []string{
		`{"allow": input.subject.user}`,
		`{"allow": false, "code": input.subject.user}`,
		`{"allow": false, "message": concat("\n", [input.subject.user, ""])}`,
		`{"allow": true, "reason": [input.subject.user]}`,
		`{"allow": false, "http_status": input.subject.user}`,
		`{"allow": false, "http_status": to_number("7777")}`,
		`{"allow": false, "headers": {concat(" ", [input.subject.user, "x"]): "a"}}`,
		`{"allow": false, "headers": {"a": concat("\n", [input.subject.user, ""])}}`,
		`{"allow": false, "headers": {input.subject.user: 1}}`,
		`{"allow": false, "headers": {"Set-Cookie": concat(",", [input.subject.user, ""])}}`,
		`{"allow": true, "lifetime": input.subject.user}`,
		`{"allow": true, "lifetime": {"duration": input.subject.user}}`,
		`{"allow": true, "lifetime": {"uses": input.subject.user}}`,
		`{"allow": true, "lifetime": {input.subject.user: 1}}`,
		`{"allow": true, input.subject.user: 1}`,
		`input.subject.user`,
		`[input.subject.user]`,
		`{"allow": to_number(input.subject.user) == 1}`,
		`{"allow": regex.match(concat("", [input.subject.user, "("]), "x")}`,
		`{"allow": json.unmarshal(input.subject.user)}`,
		`{"allow": time.parse_rfc3339_ns(input.subject.user) > 1}`,
		`{"allow": {input.subject.user: 1, input.subject.user: 2}[input.subject.user]}`,
	} {
		for _, version := range []config.RegoVersion{config.RegoV0, config.RegoV1} {
			v := compile(t, version, "data.p.allow", "package p\nallow := "+value).
				Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: presented}})
			require.NotNil(t, v.Failure, value)
			assert.NotContains(t, v.Failure.Error(), presented)
			assert.NotContains(t, v.Failure.Error(), "7777")
		}
	}
	for _, module := range []string{
		"allow = true { true }\nallow = input.subject.user { true }",
		"allow[k] = v { k := \"a\"; v := input.subject.user }\nallow[k] = v { k := \"a\"; v := 1 }",
	} {
		v := compile(t, config.RegoV0, "data.p.allow", "package p\n"+module).
			Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: presented}})
		require.NotNil(t, v.Failure, module)
		assert.Equal(t, config.EvaluationError, v.Failure.Class)
		assert.NotContains(t, v.Failure.Error(), presented)
		assert.Contains(t, v.Failure.Detail, "at policy[0]:", "the place is said")
	}
}
