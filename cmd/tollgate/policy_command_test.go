package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// policyFiles writes files into a directory and returns it.
func policyFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	directory := t.TempDir()
	for name, content := range files {
		path := filepath.Join(directory, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	return directory
}

const (
	shopPolicy = "package shop\n\ndefault allow := false\n\nallow if input.subject.user in data.staff\n\nallow if input.subject.user == \"carol\"\n"
	shopTests  = "package shop\n\ntest_staff if allow with input as {\"subject\": {\"user\": \"alice\"}}\n\ntest_others if not allow with input as {\"subject\": {\"user\": \"mallory\"}}\n"
)

func TestPolicyTest(t *testing.T) {
	t.Parallel()
	good := policyFiles(t, map[string]string{"shop.rego": shopPolicy, "shop_test.rego": shopTests, "staff.json": `{"staff": ["alice"]}`, ".hidden/x.rego": "nonsense"})
	bad := policyFiles(t, map[string]string{"shop.rego": shopPolicy, "shop_test.rego": shopTests, "staff.json": `{"staff": ["mallory"]}`})
	older := policyFiles(t, map[string]string{"a_test.rego": "package a\ntest_it { true }"})
	network := policyFiles(t, map[string]string{"a_test.rego": "package a\nallow if http.send({\"method\": \"get\", \"url\": \"http://a\"}).status_code == 200\nstub(_) := {\"status_code\": 200}\ntest_it if allow with http.send as stub"})
	for name, c := range map[string]struct {
		args []string
		code int
		out  string
		errs string
	}{
		"all pass":          {[]string{good}, 0, "PASS: 2/2", ""},
		"verbose":           {[]string{"--verbose", good}, 0, "data.shop.test_staff: PASS", ""},
		"one of them":       {[]string{"--run", "staff", good}, 0, "PASS: 1/1", ""},
		"JSON":              {[]string{"--format", "json", good}, 0, `"name": "test_staff"`, ""},
		"coverage":          {[]string{"--coverage", good}, 0, `"coverage": `, ""},
		"too little":        {[]string{"--threshold", "99", good}, 2, "", "threshold"},
		"enough":            {[]string{"--threshold", "10", good}, 0, `"coverage": `, ""},
		"two fail":          {[]string{bad}, 2, "data.shop.test_staff: FAIL", "2 of 2 tests failed"},
		"two fail, covered": {[]string{"--coverage", bad}, 2, "", "2 of 2 tests failed"},
		"none":              {[]string{"--run", "nothing", good}, 1, "", "no test was found"},
		"format":            {[]string{"--format", "xml", good}, 1, "", `--format is "xml"; use pretty or json`},
		"nowhere":           {[]string{filepath.Join(good, "nowhere")}, 1, "", "no such file"},
		"older":             {[]string{older}, 1, "", "rego_parse_error"},
		"older, said":       {[]string{"--v0-compatible", older}, 0, "PASS: 1/1", ""},
		"network":           {[]string{network}, 1, "", "rego_type_error"},
		"network, allowed":  {[]string{"--allow-hosts", "a", network}, 0, "PASS: 1/1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := run(t, append([]string{"policy", "test"}, c.args...)...)
			assert.Equal(t, c.code, code, "%s%s", out, errs)
			assert.Contains(t, out, c.out)
			assert.Contains(t, errs, c.errs)
		})
	}
}

func TestPolicyCheck(t *testing.T) {
	t.Parallel()
	good := policyFiles(t, map[string]string{"shop.rego": shopPolicy, "shop_test.rego": shopTests, "staff.json": `{"staff": ["alice"]}`})
	bad := policyFiles(t, map[string]string{"shop.rego": "package shop\nallow := x", "staff.json": `{"staff": ["alice"]}`})
	misspelt := policyFiles(t, map[string]string{"shop.rego": "package shop\nallow { input.subjct.user == \"a\" }"})
	empty := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		code int
		out  string
		errs string
	}{
		"a directory":      {[]string{"--check-method", "data.shop.allow", good}, 0, "ok\n", ""},
		"files":            {[]string{"--v0-compatible", "--check-method", "data.mixerauthz.allow", "testdata/mixerauthz.rego"}, 0, "ok\n", ""},
		"no rule":          {[]string{"--check-method", "data.shop.permit", good}, 1, "", "names no rule of the policy"},
		"no rule given":    {[]string{good}, 1, "", "check-method"},
		"does not compile": {[]string{"--check-method", "data.shop.allow", bad}, 1, "", "shop.rego:2:10: rego_unsafe_var_error"},
		"no such input": {
			[]string{"--v0-compatible", "--check-method", "data.shop.allow", filepath.Join(misspelt, "shop.rego")},
			1, "",
			filepath.Join(misspelt, "shop.rego") + ":2:9: input.subjct is in no input",
		},
		"no policy":       {[]string{"--check-method", "data.shop.allow", empty}, 1, "", "has no policies"},
		"nowhere":         {[]string{"--check-method", "data.shop.allow", filepath.Join(empty, "x")}, 1, "", "no such file"},
		"two directories": {[]string{"--check-method", "data.shop.allow", good, bad}, 1, "", "one at a time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := run(t, append([]string{"policy", "check"}, c.args...)...)
			assert.Equal(t, c.code, code, "%s%s", out, errs)
			assert.Equal(t, c.out, out)
			assert.Contains(t, errs, c.errs)
		})
	}
}
