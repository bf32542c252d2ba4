package rego_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

// Foreign policies: compiling never panics, ends soon, and gives either a check or problems; and what compiles gives a verdict that
// is filled in.
func FuzzRegoCompile(f *testing.F) {
	for _, pattern := range []string{"testdata/constants/*.rego", "testdata/policies/*.rego"} {
		files, err := filepath.Glob(pattern)
		require.NoError(f, err)
		require.NotEmpty(f, files)
		for _, file := range files {
			source, err := os.ReadFile(file)
			require.NoError(f, err)
			f.Add(string(source), "data.p.allow", false)
			f.Add(string(source), "data.p.allow", true)
		}
	}
	for _, method := range []string{"", "data.p", `data["p"].allow`, "data.p.allow with input as {}", "data.p[_]", "input.x", "data.p.f(1)", "\xff"} {
		f.Add("package p\nallow = true", method, false)
	}
	for _, source := range []string{
		"", "package", "package p\nallow = [1|[1|[1|[1|[1|true]]]]]", "package p\nallow { x := $\"{$\"{1}\"}\" }",
		"package p\nallow { allow with allow as allow }", "package p.allow\nx = 1", "package p\nimport input as data", "package p\n\xff",
		"# METADATA\n# schemas:\n# - input: {\"$ref\": \"file:///dev/null\"}\npackage p\nallow = true",
	} {
		f.Add(source, "data.p.allow", true)
	}
	f.Fuzz(func(t *testing.T, source, method string, today bool) {
		// What is long takes OPA's compiler long, by more than its length.
		const most = 4 << 10
		if len(source) > most || len(method) > config.MaxCheckMethodBytes {
			return
		}
		version := config.RegoV0
		if today {
			version = config.RegoV1
		}
		start := time.Now()
		checks, problems := rego.Kind{}.Compile(handler(version, method, source))
		if elapsed := time.Since(start); elapsed > 20*time.Second {
			t.Errorf("compiled for %s", elapsed)
		}
		if (len(checks) == 1) == (len(problems) > 0) || len(checks) > 1 {
			t.Fatalf("%d checks and problems %v", len(checks), problems)
		}
		for _, problem := range problems {
			if problem.Field == "" || problem.Text == "" || len(problem.String()) > 4*config.MaxCheckMethodBytes+1024 {
				t.Errorf("a problem of %d bytes: %.200s", len(problem.String()), problem)
			}
		}
		for _, check := range checks {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			v := check.Evaluate(ctx, &policy.Request{Subject: &policy.Subject{User: "u"}})
			cancel()
			checkVerdict(t, v)
		}
	})
}

// checkVerdict checks what holds of every verdict.
func checkVerdict(t *testing.T, v policy.Verdict) {
	t.Helper()
	if (v.Result == policy.Failed) != (v.Failure != nil) {
		t.Fatalf("result %d with failure %v", v.Result, v.Failure)
	}
	if v.Result != policy.Denied && v.Denial != nil {
		t.Fatal("a denial beside another result")
	}
	if v.Denial != nil {
		if _, ok := config.DenialCode(v.Denial.Code.String()); !ok {
			t.Fatalf("a denial with code %s", v.Denial.Code)
		}
		if err := config.CheckMessage(v.Denial.Message); err != nil {
			t.Fatalf("a denial whose message %v", err)
		}
	}
	if v.Lifetime != (config.Lifetime{}) && v.Lifetime != config.SingleUse && !v.Lifetime.Reusable() {
		t.Fatalf("lifetime %v", v.Lifetime)
	}
}

// Any JSON as the deciding value: it is a pass only where it is true, or an object whose member allow is.
func FuzzResult(f *testing.F) {
	for _, seed := range []string{
		`true`, `false`, `null`, `0`, `1`, `"true"`, `""`, `[]`, `[true]`, `{}`, `{"allow":true}`, `{"allow":false}`, `{"allow":"true"}`, `{"allow":1}`,
		`{"Allow":true}`, `{"allow":true,"allow":false}`, `{"allow":false,"allow":true}`, `{"allow":true,"x":1}`, `{"allow ":true}`, `{"\u0061llow":true}`,
		`{"allow":false,"code":"UNAUTHENTICATED","message":"m","reason":"r","http_status":401,"body":"b","headers":{"a":"b"},"lifetime":{"duration":"1s","uses":2}}`,
		`{"allow":true,"lifetime":"single_use"}`, `{"allow":true,"lifetime":{"duration":"-1s"}}`, `{"allow":true,"lifetime":{"uses":1e9}}`,
		`{"allow":false,"code":"INTERNAL"}`, `{"allow":false,"code":"OK"}`, `{"allow":false,"http_status":1e400}`, `{"allow":false,"http_status":-0}`,
		`{"allow":false,"message":"\ud800"}`, `{"allow":false,"headers":{"":""}}`, `1e999999999`, ` true`, `true false`, "\"\xff\"",
	} {
		f.Add(seed)
	}
	check := compile(f, config.RegoV0, "data.p.allow", "package p\nallow = json.unmarshal(input.subject.user)")
	f.Fuzz(func(t *testing.T, text string) {
		v := check.Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: text}})
		checkVerdict(t, v)
		if v.Result == policy.Failed {
			return
		}
		var value any
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber() // a number may be one that no float holds
		if err := decoder.Decode(&value); err != nil {
			t.Fatalf("a verdict on what is no JSON: %v", err)
		}
		if object, ok := value.(map[string]any); ok {
			value = object["allow"]
		}
		if value != (v.Result == policy.Passed) {
			t.Fatalf("%s gives result %d", text, v.Result)
		}
	})
}

// The seeds of FuzzRegoCompile that are policies compile, so that the fuzzer starts from what works too.
func TestSeedPoliciesCompile(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/policies/*.rego")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		version := config.RegoV0
		if strings.Contains(file, "today") {
			version = config.RegoV1
		}
		v := compile(t, version, "data.p.allow", string(source)).Evaluate(t.Context(), &policy.Request{})
		assert.Nil(t, v.Failure, file)
	}
}
