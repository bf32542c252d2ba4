// Package lint_test proves that the import rules in .golangci.yaml bite: a rule
// whose path or prefix no longer matches anything would otherwise stay green.
package lint_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/tollgate-mesh/tollgate"
)

// planting is a file that the proof adds to a copy of the tree: in a package of
// its own below dir, so that no import cycle can arise, it imports path.
type planting struct {
	rule string // the depguard rule that must object; empty if none may
	dir  string
	path string
	test bool // plant it as a _test.go file

	file string // relative to the copy's root; set by plant
}

// denied names, for every rule, each import that it must stop.
var denied = rows(
	deny("config", "config", ours("adapter"), ours("adapter/policy"), ours("adapter/report"), ours("template/authorization")),
	deny("template", "template", ours("config"), ours("adapter/mixer")),
	deny("operatorconfig", "operatorconfig", ours("adapter"), ours("adapter/policy")),
	deny("docs", "docs", ours("config"), ours("adapter")),

	deny("wire", "adapter/wire", ours("adapter/attribute"), ours("adapter/policy"), ours("config"), "google.golang.org/protobuf/encoding/protowire"),
	deny("attribute", "adapter/attribute", ours("adapter/policy"), ours("adapter/mixer"), ours("config"), "istio.io/api/policy/v1beta1"),

	deny("follow", "adapter/follow", ours("adapter/lists"), ours("adapter/policy"), ours("adapter/settings"), ours("config")),

	deny("policy", "adapter/policy",
		ours("adapter"), ours("adapter/mixer"), ours("adapter/report"), ours("adapter/settings"), ours("adapter/secret"),
		ours("adapter/transport"), ours("template/authorization"),
		"google.golang.org/grpc", "google.golang.org/grpc/codes", "github.com/gogo/protobuf/proto", "istio.io/api/policy/v1beta1"),
	deny("policy", "adapter/policy/rego", ours("adapter/mixer"), ours("adapter/secret"), "google.golang.org/grpc/status"),
	deny("policy", "adapter/policy/header", ours("adapter/secret"), ours("template/authorization")),
	deny("policy", "adapter/policy/jwt", ours("adapter/keyset"), ours("adapter/settings"), "google.golang.org/grpc"),
	deny("policy", "adapter/policy/apikey", ours("adapter/secret"), ours("template/apikey")),
	deny("policy", "adapter/policy/basic", ours("adapter/htpasswd"), ours("adapter/follow")),
	deny("policy", "adapter/policy/quota", ours("adapter/redis"), ours("template/quota"), "istio.io/api/mixer/adapter/model/v1beta1"),
	deny("policy", "adapter/policy/list", ours("adapter/lists"), ours("adapter/follow"), ours("template/listentry")),

	deny("report", "adapter/report",
		ours("adapter"), ours("adapter/mixer"), ours("adapter/policy"), ours("adapter/settings"), ours("adapter/secret"),
		ours("template/authorization"), "google.golang.org/grpc/codes", "github.com/gogo/protobuf/proto", "istio.io/api/policy/v1beta1"),
	deny("report", "adapter/report/spool", ours("adapter/settings"), "google.golang.org/grpc"),
	deny("sink", "adapter/report/sink/otlp", ours("adapter/mixer"), ours("adapter/settings"), ours("adapter/policy")),

	deny("decisionlog", "adapter/decisionlog", ours("adapter"), ours("adapter/mixer"), ours("adapter/settings"), ours("adapter/observe")),

	deny("mixer", "adapter/mixer", ours("adapter"), ours("adapter/settings"), ours("adapter/transport"), ours("adapter/admin"), ours("operatorconfig")),

	deny("rooms", "adapter/activity", ours("adapter"), ours("adapter/mixer")),
	deny("rooms", "adapter/admin", ours("adapter"), ours("adapter/mixer")),
	deny("rooms", "adapter/htpasswd", ours("adapter"), ours("adapter/mixer")),
	deny("rooms", "adapter/keyset", ours("adapter"), ours("adapter/mixer"), ours("template/authorization")),
	deny("rooms", "adapter/lists", ours("adapter"), ours("adapter/mixer")),
	deny("rooms", "adapter/policies", ours("adapter"), ours("adapter/mixer"), ours("template/authorization")),
	deny("rooms", "adapter/logtest", ours("adapter"), ours("adapter/mixer")),
	deny("rooms", "adapter/observe", ours("adapter/mixer")),
	deny("rooms", "adapter/readiness", ours("adapter"), ours("adapter/mixer")),
	deny("rooms", "adapter/redis", ours("adapter"), ours("adapter/mixer"), ours("template/quota")),
	deny("rooms", "adapter/secret", ours("adapter/mixer")),
	deny("rooms", "adapter/settings", ours("adapter/mixer"), ours("template/authorization")),
	deny("rooms", "adapter/tracing", ours("adapter"), ours("adapter/mixer")),
	deny("rooms", "adapter/transport", ours("adapter/mixer")),

	deny("command", "adapter", ours("cmd/shared")),
	deny("command", "config", ours("cmd/shared")),
	deny("command", "operatorconfig", ours("cmd/shared")),
	deny("flags", "adapter", "flag", "github.com/spf13/cobra", "github.com/spf13/pflag"),
	deny("flags", "adapter/settings", "flag", "github.com/spf13/pflag"),
	deny("flags", "config", "github.com/spf13/cobra"),
	deny("logging", "adapter", "log"),
	deny("logging", "cmd/tollgate", "log"),
	deny("test-only", "adapter/policy", "github.com/stretchr/testify/assert", "go.uber.org/goleak"),
	deny("test-only", "cmd/tollgate", "github.com/stretchr/testify/require", ours("adapter/logtest")),
)

// allowed keeps the rules honest the other way round: a rule that stops
// everything would pass the proof above too.
var allowed = rows(
	deny("", "cmd/tollgate", ours("adapter"), ours("adapter/settings"), ours("operatorconfig"), "github.com/spf13/cobra", "github.com/spf13/pflag"),
	deny("", "adapter", ours("adapter/mixer"), ours("adapter/policy"), ours("adapter/settings"), ours("adapter/transport"), ours("config"), "google.golang.org/grpc"),
	deny("", "adapter/mixer",
		ours("adapter/policy"), ours("adapter/policy/rego"), ours("adapter/report"), ours("config"), ours("template/authorization"),
		"google.golang.org/grpc", "github.com/gogo/protobuf/proto", "log/slog"),
	deny("", "adapter/wire", "encoding/binary"),
	deny("", "adapter/attribute", ours("adapter/wire"), "net/netip"),
	deny("", "adapter/mixer", ours("adapter/attribute"), ours("adapter/wire")),
	deny("", "adapter/policy", ours("config"), ours("adapter/attribute"), ours("adapter/wire"), "log/slog"),
	deny("", "adapter/policy/header", ours("adapter/attribute"), ours("adapter/wire")),
	deny("", "adapter/policy/list", ours("adapter/attribute"), ours("adapter/policy"), ours("config"), "github.com/gaissmai/bart"),
	deny("", "adapter/lists", ours("adapter/follow"), ours("adapter/policy/list"), ours("config")),
	deny("", "adapter/policies", ours("adapter/policy/rego"), ours("config"), "github.com/open-policy-agent/opa/v1/plugins/bundle"),
	deny("", "adapter/policy/rego", ours("adapter/policy"), "github.com/open-policy-agent/opa/v1/rego"),
	deny("", "adapter/redis", ours("adapter/policy/quota"), ours("adapter/report/sink/client"), "github.com/redis/go-redis/v9"),
	deny("", "adapter/policy/jwt", ours("adapter/policy"), "github.com/lestrrat-go/jwx/v3/jws"),
	deny("", "adapter/policy/basic", ours("adapter/policy/credential"), "golang.org/x/crypto/bcrypt"),
	deny("", "adapter/htpasswd", ours("adapter/follow"), ours("adapter/policy/basic")),
	deny("", "adapter/keyset", ours("adapter/follow"), ours("adapter/policy/jwt")),
	deny("", "adapter/report", ours("config"), ours("adapter/attribute"), ours("adapter/wire")),
	deny("", "adapter/report/record", ours("adapter/attribute"), ours("adapter/wire")),
	deny("", "adapter/report/sink/otlp", ours("adapter/report"), ours("adapter/attribute"), ours("adapter/wire"), "google.golang.org/grpc"),
	deny("", "adapter/decisionlog", ours("adapter/policy"), ours("adapter/report"), ours("adapter/attribute"), ours("config")),
	deny("", "adapter/transport", ours("adapter/follow"), ours("adapter/policy/credential"), ours("adapter/policy/jwt"), "google.golang.org/grpc"),
	deny("", "config", ours("config/configpb")),
	[]planting{
		{dir: "adapter/policy", path: "github.com/stretchr/testify/assert", test: true},
		{dir: "adapter/mixer", path: "go.uber.org/goleak", test: true},
		{dir: "adapter/attribute", path: "istio.io/api/policy/v1beta1", test: true},
		{dir: "adapter/wire", path: "google.golang.org/protobuf/encoding/protowire", test: true},
	},
)

func TestImportRules(t *testing.T) {
	plantings := slices.Concat(denied, allowed)
	tree := copyTree(t)
	for i := range plantings {
		plantings[i].plant(t, tree, i)
	}
	found := lint(t, tree)

	for _, p := range plantings {
		name := strings.ReplaceAll(fmt.Sprintf("%s imports %s", p.dir, strings.TrimPrefix(p.path, module+"/")), "/", ".")
		if p.test {
			name += " in a test"
		}
		t.Run(name, func(t *testing.T) {
			got := found[p.file]
			if p.rule == "" {
				if len(got) > 0 {
					t.Errorf("must be allowed, but the linter says: %q", got)
				}
				return
			}
			want := fmt.Sprintf("import '%s' is not allowed from list '%s'", p.path, p.rule)
			if !slices.ContainsFunc(got, func(text string) bool { return strings.HasPrefix(text, want) }) {
				t.Errorf("rule %q did not bite; the linter says: %q", p.rule, got)
			}
		})
	}
}

// TestEveryRuleIsProven fails when a rule is added without a proof.
func TestEveryRuleIsProven(t *testing.T) {
	config, err := os.ReadFile(filepath.Join(root, ".golangci.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := bytes.Cut(config, []byte("    depguard:\n      rules:\n"))
	section = section[:max(0, bytes.Index(section, []byte("\n    errcheck:")))]
	rules := regexp.MustCompile(`(?m)^ {8}([a-z-]+):$`).FindAllSubmatch(section, -1)
	if len(rules) == 0 {
		t.Fatal("no depguard rules found in .golangci.yaml")
	}
	for _, rule := range rules {
		if !slices.ContainsFunc(denied, func(p planting) bool { return p.rule == string(rule[1]) }) {
			t.Errorf("no import in this file proves rule %q", rule[1])
		}
	}
}

// TestEveryFolderHasARule fails when a folder appears that no rule guards.
func TestEveryFolderHasARule(t *testing.T) {
	guarded := map[string]bool{}
	for _, p := range denied {
		guarded[room(p.dir)] = true
	}
	tree := copyTree(t)
	err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		dir, err := filepath.Rel(tree, filepath.Dir(path))
		if err == nil && !guarded[room(filepath.ToSlash(dir))] {
			t.Errorf("%s: no import in this file proves that a rule guards this folder", dir)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// room is the part of a folder's path that rules are about: the first name, or
// the first two below adapter.
func room(dir string) string {
	names := strings.SplitN(dir, "/", 3)
	if names[0] == "adapter" && len(names) > 1 {
		return names[0] + "/" + names[1]
	}
	return names[0]
}

// plant writes the file, and stubs for packages of ours that do not exist yet.
func (p *planting) plant(t *testing.T, tree string, n int) {
	t.Helper()
	if pkg, ok := strings.CutPrefix(p.path, module+"/"); ok {
		stub(t, filepath.Join(tree, pkg))
	}
	p.file = fmt.Sprintf("%s/planted%d/planted.go", p.dir, n)
	source := fmt.Sprintf("package planted\n\nimport _ %q\n", p.path)
	if p.test {
		p.file = strings.TrimSuffix(p.file, ".go") + "_test.go"
	}
	write(t, filepath.Join(tree, p.file), source)
}

// lint runs depguard alone over the tree and returns its findings by file.
func lint(t *testing.T, tree string) map[string][]string {
	t.Helper()
	linter, err := filepath.Abs(filepath.Join(root, "bin", "golangci-lint"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(linter); err != nil {
		t.Fatalf("the linter is not built, run `make lint-proof`: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), linter, "run", "--enable-only", "depguard", "--show-stats=false", "--output.json.path", "stdout", "./...")
	cmd.Dir = tree
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("the linter must find issues and exit with 1, got %v\n%s%s", err, &stdout, &stderr)
	}

	var report struct {
		Issues []struct {
			FromLinter, Text string
			Pos              struct{ Filename string }
		}
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("%v\n%s%s", err, &stdout, &stderr)
	}
	found := map[string][]string{}
	for _, issue := range report.Issues {
		// Anything but depguard means that the tree did not load, and then
		// silence proves nothing.
		if issue.FromLinter != "depguard" {
			t.Fatalf("%s: %s: %s", issue.Pos.Filename, issue.FromLinter, issue.Text)
		}
		file := filepath.ToSlash(issue.Pos.Filename)
		found[file] = append(found[file], issue.Text)
	}
	return found
}

// copyTree copies what the linter reads of the root module. The working tree is
// never touched.
func copyTree(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if rel != "." && (rel == "bin" || strings.HasPrefix(entry.Name(), ".") || isFile(filepath.Join(path, "go.mod"))) {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(rel) != ".go" && rel != "go.mod" && rel != "go.sum" && rel != ".golangci.yaml" {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		write(t, filepath.Join(tree, rel), string(content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// stub makes sure that dir holds a package.
func stub(t *testing.T, dir string) {
	t.Helper()
	if files, err := filepath.Glob(filepath.Join(dir, "*.go")); err != nil || len(files) > 0 {
		return
	}
	write(t, filepath.Join(dir, "stub.go"), "package "+filepath.Base(dir)+"\n")
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func ours(pkg string) string { return module + "/" + pkg }

func deny(rule, dir string, paths ...string) []planting {
	all := make([]planting, 0, len(paths))
	for _, path := range paths {
		all = append(all, planting{rule: rule, dir: dir, path: path})
	}
	return all
}

func rows(groups ...[]planting) []planting { return slices.Concat(groups...) }
