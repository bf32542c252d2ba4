package rego_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

// bucketAdmins is the policy known from Mixer's opa adapter, and a request that it lets pass.
func bucketAdmins(b *testing.B) (*config.Handler, *policy.Request) {
	b.Helper()
	source, err := os.ReadFile("testdata/policies/bucket-admins.rego")
	require.NoError(b, err)
	return handler(config.RegoV0, "data.p.allow", string(source)), &policy.Request{
		Subject: &policy.Subject{User: "alice", Groups: "bucket-admins"},
		Action: &policy.Action{
			Namespace: "default", Service: "storage", Method: "storage.buckets.list", Path: "/v1/buckets",
			Properties: attribute.Map{{Name: "version", Value: attribute.OfText(attribute.String, "v1")}},
		},
	}
}

// BenchmarkEvaluate is an evaluation alone: input, Rego, result. Every one is a first time; nothing is cached.
func BenchmarkEvaluate(b *testing.B) {
	h, request := bucketAdmins(b)
	check := compile(b, config.RegoV0, h.Rego.Decision, h.Rego.Modules...)
	b.ReportAllocs()
	for b.Loop() {
		if check.Evaluate(b.Context(), request).Result != policy.Passed {
			b.Fatal("did not pass")
		}
	}
}

// BenchmarkPolicy adds the gate, the budget and the combination.
func BenchmarkPolicy(b *testing.B) {
	h, request := bucketAdmins(b)
	compiler := policy.Compiler{Kinds: []policy.Kind{rego.Kind{}}, Timeout: time.Minute, Gate: policy.NewGate(8, 0)}
	p := compiler.Compile(h, nil)
	require.Empty(b, p.Problems())
	b.ReportAllocs()
	for b.Loop() {
		if !p.Evaluate(b.Context(), request).Allowed() {
			b.Fatal("did not pass")
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	h, _ := bucketAdmins(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, problems := (rego.Kind{}).Compile(h); len(problems) > 0 {
			b.Fatal(problems)
		}
	}
}
