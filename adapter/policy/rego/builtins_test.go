package rego_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

// volatileBuiltins are those whose result is another a moment later or in another process, each with why.
var volatileBuiltins = map[string]string{
	"crypto.x509.parse_and_verify_certificates":              "reads the clock",
	"crypto.x509.parse_and_verify_certificates_with_options": "reads the clock",
	"io.jwt.decode_verify":                                   "reads the clock",
	"io.jwt.encode_sign":                                     "some signatures hold chance",
	"io.jwt.encode_sign_raw":                                 "some signatures hold chance",
	"rand.intn":                                              "is chance",
	"time.now_ns":                                            "reads the clock",
	"uuid.rfc4122":                                           "is chance",
}

// unavailableBuiltins are those that policies do not have, each with why.
var unavailableBuiltins = map[string]string{
	"bits.lsh":                 "takes as much memory as its argument says",
	"graphql.is_valid":         "takes stack for every bracket of its argument",
	"graphql.parse":            "takes stack for every bracket of its argument",
	"graphql.parse_and_verify": "takes stack for every bracket of its argument",
	"graphql.parse_query":      "takes stack for every bracket of its argument",
	"graphql.parse_schema":     "takes stack for every bracket of its argument",
	"graphql.schema_is_valid":  "takes stack for every bracket of its argument",
	"http.send":                "sends requests",
	"json.match_schema":        "reads files that a $ref names",
	"json.verify_schema":       "reads files that a $ref names",
	"net.lookup_ip_addr":       "asks the network",
	"opa.runtime":              "shows the environment",
	"rego.parse_module":        "takes memory for every template string of its argument",
}

// Whoever updates OPA has to say of each new built-in which kind it is; until then it counts as volatile.
func TestEveryBuiltinIsClassified(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("pure_builtins.txt")
	require.NoError(t, err)
	var pure []string
	for line := range strings.Lines(string(content)) {
		if name := strings.TrimSpace(line); name != "" && !strings.HasPrefix(name, "#") {
			pure = append(pure, name)
		}
	}
	assert.True(t, slices.IsSorted(pure), "the list is sorted")
	assert.Len(t, slices.Compact(slices.Clone(pure)), len(pure), "no name stands twice")

	existing := map[string]*ast.Builtin{}
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		if strings.HasPrefix(b.Name, "faultinjection.") { // only in binaries for tests
			continue
		}
		existing[b.Name] = b
		kinds := 0
		for _, in := range []bool{slices.Contains(pure, b.Name), volatileBuiltins[b.Name] != "", unavailableBuiltins[b.Name] != ""} {
			if in {
				kinds++
			}
		}
		assert.Equal(t, 1, kinds, "%s stands in exactly one of pure_builtins.txt, volatileBuiltins and unavailableBuiltins", b.Name)
		if b.IsNondeterministic() {
			assert.NotContains(t, pure, b.Name, "OPA itself says that it is not pure")
		}
	}
	for _, name := range pure {
		assert.Contains(t, existing, name, "pure_builtins.txt has a stale entry")
	}
	for _, names := range []map[string]string{volatileBuiltins, unavailableBuiltins} {
		for name := range names {
			assert.Contains(t, existing, name, "a list of this test has a stale entry")
		}
	}
}

// call is an expression that calls a built-in with arguments that nothing is known about.
func call(t *testing.T, name string) string {
	t.Helper()
	b := ast.BuiltinMap[name]
	require.NotNil(t, b, name)
	arguments := make([]string, len(b.Decl.FuncArgs().Args))
	for i := range arguments {
		arguments[i] = "input.value"
	}
	return name + "(" + strings.Join(arguments, ", ") + ")"
}

func TestVolatileBuiltinsMakeSingleUse(t *testing.T) {
	t.Parallel()
	for name := range volatileBuiltins {
		v := compile(t, config.RegoV1, "data.p.allow", "package p\ndefault allow := true\nallow := false if { x := "+call(t, name)+"; type_name(x) == \"nothing\" }").
			Evaluate(t.Context(), &policy.Request{})
		require.Nil(t, v.Failure, name)
		assert.Equal(t, config.SingleUse, v.Lifetime, name)
	}
}

func TestUnavailableBuiltinsDoNotCompile(t *testing.T) {
	t.Parallel()
	for name := range unavailableBuiltins {
		for _, body := range []string{
			"allow { x := " + call(t, name) + " }",
			"allow { true with " + name + " as 1 }",
			"f(x) = 1\nallow { b with data.p.f as " + name + " }\nb { f(1) }",
			"f(x) = 1\nallow { b with " + name + " as data.p.f }\nb { true }",
			"allow { x := " + name + " }",
		} {
			for _, version := range []config.RegoVersion{config.RegoV0, config.RegoV1} {
				source := "package p\n" + body
				if version == config.RegoV1 {
					source = strings.ReplaceAll(source, " {", " if {")
				}
				checks, problems := rego.Kind{}.Compile(handler(version, "data.p.allow", source))
				assert.Empty(t, checks, source)
				assert.NotEmpty(t, problems, source)
			}
		}
	}
	_, problems := rego.Kind{}.Compile(handler(config.RegoV0, "data.p.allow", "package p\nallow { http.send({}) }"))
	assert.Equal(t, "policy[0]:2:9: rego_type_error: undefined function http.send, which wants the setting rego.allow_hosts", problems.Error(), "the operator is told which")
}

// Nothing of the process reaches a policy: not its environment, not its files, not what OPA knows of it.
func TestPoliciesSeeNothingOfTheProcess(t *testing.T) {
	const planted = "hunter2"
	t.Setenv("TOLLGATE_TEST_PLANTED", planted)
	file := t.TempDir() + "/planted.json"
	require.NoError(t, os.WriteFile(file, []byte(`{"const": "`+planted+`"}`), 0o600))
	for _, expression := range []string{
		`opa.runtime().env`,
		`opa.runtime()`,
		`data`,
		`data.env`,
		`data.system`,
		`json.match_schema("x", {"$ref": "file://` + file + `"})`,
		`json.verify_schema({"$ref": "file://` + file + `"})`,
		`graphql.schema_is_valid("file://` + file + `")`,
		`yaml.unmarshal("!!env TOLLGATE_TEST_PLANTED")`,
		`sprintf("%v ${TOLLGATE_TEST_PLANTED} $TOLLGATE_TEST_PLANTED", [input])`,
		`rego.metadata.chain()`,
		`time.clock([1, "../../../../../../..` + file + `"])`,
	} {
		source := "package p\nallow = {\"allow\": true, \"reason\": json.marshal(x)} { x := " + expression + " }"
		checks, problems := rego.Kind{}.Compile(handler(config.RegoV0, "data.p.allow", source))
		assert.NotContains(t, problems.Error(), planted)
		for _, check := range checks {
			v := check.Evaluate(t.Context(), &policy.Request{})
			assert.NotContains(t, v.Reason, planted, expression)
			if v.Failure != nil {
				assert.NotContains(t, v.Failure.Error(), planted, expression)
			}
		}
	}
}
