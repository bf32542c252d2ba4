package policies_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/loader"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/policies"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 2 * time.Minute

func environment() *rego.Environment { return rego.NewEnvironment(rego.Options{}) }

// write replaces a file in one step, and returns its path.
func write(t *testing.T, path, content string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path+".new", []byte(content), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
	return path
}

// fixture is a source called shop, with a handler that decides by data.shop.allow.
type fixture struct {
	store  *policies.Store
	source *rego.Source
	check  policy.Check
	log    *logtest.Buffer
}

func open(t *testing.T, source policies.Source) *fixture {
	t.Helper()
	f := &fixture{log: &logtest.Buffer{}}
	var err error
	f.store, err = policies.Open(map[string]policies.Source{"shop": source}, environment(), slog.New(slog.NewTextHandler(f.log, nil)))
	require.NoError(t, err)
	var ok bool
	f.source, ok = f.store.Source("shop")
	require.True(t, ok)
	checks, problems := rego.Kind{Sources: f.store}.Compile(&config.Handler{Name: "checkout", Rego: &config.RegoPolicy{Source: "shop", Decision: "data.shop.allow"}})
	require.Empty(t, problems)
	f.check = checks[0]
	return f
}

// run follows the source until stop is called or the test ends, and returns when it was tried once.
func (f *fixture) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	tried, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- f.store.Run(ctx, func() { close(tried) }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	t.Cleanup(stop)
	select {
	case <-tried:
	case <-time.After(patience):
		t.Fatal("nothing was tried")
	}
	return stop
}

func (f *fixture) ask(ctx context.Context) policy.Verdict {
	return f.check.Evaluate(ctx, &policy.Request{})
}

// reason is that of the verdict, or the class of its failure.
func (f *fixture) reason(t *testing.T) string {
	t.Helper()
	v := f.ask(t.Context())
	if v.Failure != nil {
		return v.Failure.Class.String()
	}
	return v.Reason
}

func (f *fixture) revision(t *testing.T) string {
	t.Helper()
	return f.ask(t.Context()).Revision
}

func (f *fixture) await(t *testing.T, reason, revision string) {
	t.Helper()
	require.Eventually(t, func() bool { v := f.ask(t.Context()); return v.Reason == reason && v.Revision == revision },
		patience, time.Millisecond, "%s at %s", reason, revision)
}

func (f *fixture) awaitReason(t *testing.T, reason string) {
	t.Helper()
	if !assert.Eventually(t, func() bool { return f.reason(t) == reason }, patience, time.Millisecond) {
		t.Fatalf("%s in place of %s: %+v", f.reason(t), reason, f.source.Stats())
	}
}

// says is a policy whose answers have a reason.
func says(reason string) string {
	return fmt.Sprintf("package shop\nallow := {\"allow\": false, \"reason\": %q}\n", reason)
}

func fromDirectory(directory string) policies.Source {
	return policies.Source{Directory: directory, Version: config.RegoV1, MaxBytes: 1 << 20}
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	module := write(t, filepath.Join(directory, "shop", "shop.rego"), says("first"))
	write(t, filepath.Join(directory, "shop", "shop_test.rego"), "package shop\ntest_it if nonsense(1)")
	f := open(t, fromDirectory(directory))
	assert.Equal(t, "first", f.reason(t), "it is there from the start")
	first := f.revision(t)
	assert.Regexp(t, `^shop@sha256:[0-9a-f]{12}$`, first)
	f.run(t)

	write(t, module, says("second"))
	f.awaitReason(t, "second")
	assert.NotEqual(t, first, f.revision(t))
	write(t, module, says("first"))
	f.await(t, "first", first) // the same content is the same revision

	// In place of the policy, what is none. The last good one goes on, and what is wrong is told.
	for _, c := range []struct{ name, content, want string }{
		{"shop/shop.rego", "package shop\nallow := {", "shop/shop.rego:2:"},
		{"shop/shop.rego", "package shop\nallow := x", "shop/shop.rego:2:10: rego_unsafe_var_error"},
		{"shop/shop.rego", strings.Repeat("#", 1<<20+1), "more than 1048576 bytes"},
		{"shop/limits.json", `{"hunter2": `, "shop/limits.json is no JSON or YAML document"},
		{"shop/limits.json", `[1]`, "shop/limits.json is no object"},
		{"more.json", `{"shop": {"allow": true}}`, "conflicting rule for data path shop/allow"},
	} {
		write(t, filepath.Join(directory, filepath.FromSlash(c.name)), c.content)
		require.Eventually(t, func() bool { return strings.Contains(fmt.Sprint(f.source.Stats().Err), c.want) }, patience, time.Millisecond, c.want)
		assert.NotContains(t, f.log.String(), "hunter2")
		assert.Equal(t, "first", f.reason(t))
		require.ErrorContains(t, f.store.Problem("shop"), "it stays at revision sha256:")
		write(t, module, says("first"))
		if c.name != "shop/shop.rego" {
			require.NoError(t, os.Remove(filepath.Join(directory, filepath.FromSlash(c.name))))
		}
		require.Eventually(t, func() bool { return f.source.Stats().Err == nil }, patience, time.Millisecond)
	}

	require.NoError(t, os.Rename(filepath.Join(directory, "shop"), filepath.Join(directory, ".shop")))
	require.Eventually(t, func() bool { return strings.Contains(fmt.Sprint(f.source.Stats().Err), "has no policies") }, patience, time.Millisecond)
	assert.Equal(t, "first", f.reason(t), "an emptied directory is no policy")
	require.NoError(t, os.Rename(filepath.Join(directory, ".shop"), filepath.Join(directory, "shop")))
	require.Eventually(t, func() bool { return f.source.Stats().Err == nil }, patience, time.Millisecond)
	require.NoError(t, os.RemoveAll(directory))
	require.Eventually(t, func() bool { return strings.Contains(fmt.Sprint(f.source.Stats().Err), "no such file") }, patience, time.Millisecond)
	assert.Equal(t, "first", f.reason(t))
}

// What handlers cannot follow is told by its rule.
func TestDirectoryWithoutTheRule(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	module := write(t, filepath.Join(directory, "shop.rego"), says("first"))
	f := open(t, fromDirectory(directory))
	f.run(t)
	write(t, module, "package shop\npermit := true")
	require.Eventually(t, func() bool { return f.source.Stats().Behind == 1 }, patience, time.Millisecond)
	assert.Equal(t, "first", f.reason(t))
	require.ErrorContains(t, f.store.Problem("shop"), "1 of 1 rules cannot follow to revision sha256:")
	require.Eventually(t, func() bool { return strings.Contains(f.log.String(), "rule=data.shop.allow") }, patience, time.Millisecond)
	write(t, module, says("third"))
	f.awaitReason(t, "third")
}

// A directory that is not there at the start may come later.
func TestDirectoryThatComesLater(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "a")
	f := open(t, fromDirectory(directory))
	assert.Equal(t, "policy_not_loaded", f.reason(t))
	require.ErrorContains(t, f.store.Problem("shop"), "it has nothing to decide with: ")
	write(t, filepath.Join(directory, "shop.rego"), says("here"))
	f.run(t)
	f.awaitReason(t, "here")
}

// Kubernetes writes a mounted ConfigMap into a new hidden directory and then swaps a symlink. No mixture is ever taken.
func TestConfigMap(t *testing.T) {
	t.Parallel()
	mount := t.TempDir()
	const versions = 20
	swap := func(n int) {
		hidden := filepath.Join(mount, fmt.Sprintf("..2026_%d", n))
		for i := range 20 {
			write(t, filepath.Join(hidden, fmt.Sprintf("part%d.rego", i)), fmt.Sprintf("package shop\nparts contains %d\n", n))
		}
		write(t, filepath.Join(hidden, "shop.rego"), "package shop\nallow := {\"allow\": false, \"reason\": sprintf(\"%v %v\", [parts, data.n])}")
		write(t, filepath.Join(hidden, "data.yaml"), fmt.Sprintf("n: %d", n))
		require.NoError(t, os.Symlink(filepath.Base(hidden), filepath.Join(mount, "..data.new")))
		require.NoError(t, os.Rename(filepath.Join(mount, "..data.new"), filepath.Join(mount, "..data")))
		if n == 0 {
			require.NoError(t, fs.WalkDir(os.DirFS(hidden), ".", func(path string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					return err
				}
				return os.Symlink(filepath.Join("..data", path), filepath.Join(mount, path))
			}))
		} else {
			require.NoError(t, os.RemoveAll(filepath.Join(mount, fmt.Sprintf("..2026_%d", n-1))))
		}
	}
	swap(0)
	f := open(t, fromDirectory(mount))
	f.run(t)
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	callers.Go(func() {
		last := 0
		for ctx.Err() == nil {
			v := f.ask(context.WithoutCancel(ctx))
			var set, data int
			_, _ = fmt.Sscanf(v.Reason, "{%d} %d", &set, &data)
			if !assert.Nil(t, v.Failure) || !assert.Equal(t, fmt.Sprintf("{%d} %d", set, set), v.Reason) || !assert.GreaterOrEqual(t, set, last) {
				return
			}
			last = set
		}
	})
	for n := 1; n <= versions; n++ {
		swap(n)
		if n%5 == 0 {
			f.awaitReason(t, fmt.Sprintf("{%d} %d", n, n))
		}
	}
	cancel()
	callers.Wait()
}

// Documents lie in data as `opa run DIR` puts them there.
func TestLayout(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	for name, content := range map[string]string{
		"users.json":         `{"users": {"alice": 1, "big": 12345678901234567890}}`,
		"more.yaml":          "users: {bob: [a, b]}\nlimit: 1.5",
		"a/b/data.json":      `{"c": null}`,
		"a/b/d/x.yml":        "e: true",
		"a/extra.json":       `{"b": {"f": "g"}}`,
		".hidden/x.json":     `{"hidden": 1}`,
		".hidden.json":       `{"hidden": 1}`,
		"README.md":          "hello",
		"shop/shop.rego":     "package shop\nallow := {\"allow\": false, \"reason\": json.marshal({\"users\": data.users, \"limit\": data.limit, \"a\": data.a})}",
		"shop/dir.json/a.md": "a directory",
	} {
		write(t, filepath.Join(directory, filepath.FromSlash(name)), content)
	}
	f := open(t, fromDirectory(directory))
	require.NoError(t, f.source.Stats().Err)
	loaded, err := loader.NewFileLoader().Filtered([]string{directory}, func(path string, _ os.FileInfo, _ int) bool {
		return strings.HasPrefix(filepath.Base(path), ".") || strings.HasSuffix(path, ".md")
	})
	require.NoError(t, err)
	assert.JSONEq(t, mustJSON(t, loaded.Documents), f.reason(t))
	assert.Contains(t, f.reason(t), "12345678901234567890")
}

func TestDirectoriesThatAreTooMuch(t *testing.T) {
	t.Parallel()
	deep := t.TempDir()
	write(t, filepath.Join(deep, filepath.FromSlash(strings.Repeat("d/", 20)), "a.rego"), "package a")
	loop := t.TempDir()
	require.NoError(t, os.Symlink(".", filepath.Join(loop, "again")))
	write(t, filepath.Join(loop, "a.rego"), "package a")
	twice := t.TempDir()
	write(t, filepath.Join(twice, "a.rego"), "package a")
	write(t, filepath.Join(twice, "a.json"), `{"x": {"y": 1}}`)
	write(t, filepath.Join(twice, "b.json"), `{"x": {"y": 1}}`)
	below := t.TempDir()
	write(t, filepath.Join(below, "a.rego"), "package a")
	write(t, filepath.Join(below, "a.json"), `{"x": 1}`)
	write(t, filepath.Join(below, "x", "b.json"), `{"y": 1}`)
	dangling := t.TempDir()
	write(t, filepath.Join(dangling, "a.rego"), "package a")
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dangling, "b.rego")))
	for directory, want := range map[string]string{
		deep: "directories deep", loop: "directories deep", twice: `b.json: the key "y" is in another document as well`,
		below: `x/b.json: the directory "x" has documents`, dangling: "b.rego: no such file",
	} {
		f := open(t, fromDirectory(directory))
		require.ErrorContains(t, f.source.Stats().Err, want)
		assert.Equal(t, "policy_not_loaded", f.reason(t))
	}
}
