package mesh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

const (
	productModule = "github.com/tollgate-mesh/tollgate"
	testModule    = productModule + "/test/mixer"
	istioModule   = "istio.io/istio"

	// manifestPath is where an Istio release keeps the attributes that Mixer knows, relative to its module.
	manifestPath = "mixer/testdata/config/attributes.yaml"
)

// TollgateEnv names the environment variable that makes the harness use a ready tollgate binary instead of building
// one: one built with -race, say, or last week's. A relative path starts at the repository's root.
const TollgateEnv = "TOLLGATE_BIN"

// Binaries finds the binaries under the repository's bin folder and builds those that are missing.
type Binaries struct {
	// Root is the repository's root.
	Root string
	// Rebuild makes the first use of every binary build it again.
	Rebuild bool

	mu    sync.Mutex
	ready map[string]string // name → path, once known to be good
	istio map[string]string // version → folder of Istio's module
}

var defaultBinaries = sync.OnceValues(FindBinaries)

// FindBinaries looks for the repository's root from the working directory upwards.
func FindBinaries() (*Binaries, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	for {
		switch moduleAt(dir) {
		case productModule:
			return &Binaries{Root: dir}, nil
		case testModule:
			return &Binaries{Root: filepath.Dir(filepath.Dir(dir))}, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil, fmt.Errorf("not inside a checkout of %s", productModule)
		}
		dir = parent
	}
}

// moduleAt returns the path of the module whose go.mod is in dir, or nothing.
func moduleAt(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(line, "module "); ok {
			return strings.TrimSpace(path)
		}
	}
	return ""
}

// Tollgate returns the path of the tollgate binary. Unless TollgateEnv names one, every process runs go build once:
// it takes a second when nothing changed, and a test that ran yesterday's binary would prove nothing.
func (b *Binaries) Tollgate(ctx context.Context) (string, error) {
	if path := os.Getenv(TollgateEnv); path != "" {
		if !filepath.IsAbs(path) {
			path = filepath.Join(b.Root, path)
		}
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%s: %w", TollgateEnv, err)
		}
		return path, nil
	}
	return b.once("tollgate", func(path string) error {
		return b.goRun(ctx, b.Root, "build", "-o", path, "./cmd/tollgate")
	})
}

// Mixs returns the path of a release's Mixer server. The first build takes minutes.
func (b *Binaries) Mixs(ctx context.Context, version string) (string, error) {
	return b.istioBinary(ctx, version, "mixs")
}

// Mixc returns the path of a release's Mixer client.
func (b *Binaries) Mixc(ctx context.Context, version string) (string, error) {
	return b.istioBinary(ctx, version, "mixc")
}

func (b *Binaries) istioBinary(ctx context.Context, version, command string) (string, error) {
	tools, err := b.tools(version)
	if err != nil {
		return "", err
	}
	return b.once(filepath.Join("istio-"+version, command), func(path string) error {
		if !b.Rebuild && newer(path, filepath.Join(tools, "go.mod"), filepath.Join(tools, "go.sum")) {
			return nil
		}
		return b.goRun(ctx, tools, "build", "-mod=readonly", "-o", path, istioModule+"/mixer/cmd/"+command)
	})
}

// Manifest returns a release's own attribute manifest: what a Mixer without it calls unknown attributes.
func (b *Binaries) Manifest(ctx context.Context, version string) ([]byte, error) {
	return b.IstioFile(ctx, version, manifestPath)
}

// IstioFile returns a file of a release, by its path in Istio's module.
func (b *Binaries) IstioFile(ctx context.Context, version, path string) ([]byte, error) {
	dir, err := b.istioDir(ctx, version)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
}

func (b *Binaries) istioDir(ctx context.Context, version string) (string, error) {
	tools, err := b.tools(version)
	if err != nil {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if dir, ok := b.istio[version]; ok {
		return dir, nil
	}
	// Unlike go list, go mod download also fetches a module whose cache was cleaned after the build.
	out, err := goCommand(ctx, tools, "mod", "download", "-json", istioModule).Output()
	if err != nil {
		return "", fmt.Errorf("finding the module of Istio %s: %w", version, withStderr(err))
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", err
	}
	if b.istio == nil {
		b.istio = make(map[string]string)
	}
	b.istio[version] = module.Dir
	return module.Dir, nil
}

// tools returns the folder of the module that pins a release.
func (b *Binaries) tools(version string) (string, error) {
	if !slices.Contains(Versions, version) {
		return "", fmt.Errorf("no Mixer of Istio %q; there are %s", version, strings.Join(Versions, ", "))
	}
	return filepath.Join(b.Root, "test", "mixer", "istio-"+version), nil
}

// once makes sure that a binary is good, once in this process and by one process at a time.
func (b *Binaries) once(name string, build func(path string) error) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if path, ok := b.ready[name]; ok {
		return path, nil
	}
	path := filepath.Join(b.Root, "bin", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	// Test binaries of several packages run at the same time; the lock ends with its file.
	lock, err := os.OpenFile(filepath.Join(b.Root, "bin", ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := flock(lock); err != nil {
		return "", err
	}
	if err := build(path); err != nil {
		return "", err
	}
	if b.ready == nil {
		b.ready = make(map[string]string)
	}
	b.ready[name] = path
	return path, nil
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func (b *Binaries) goRun(ctx context.Context, dir string, args ...string) error {
	cmd := goCommand(ctx, dir, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	return nil
}

// goCommand runs go as it would run by hand in dir: outside any workspace, without this process's build flags.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	return cmd
}

// newer says whether the file exists and is no older than any of the others.
func newer(path string, than ...string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	for _, other := range than {
		o, err := os.Stat(other)
		if err != nil || o.ModTime().After(info.ModTime()) {
			return false
		}
	}
	return true
}

// withStderr adds what a command wrote to the error that says only that it failed.
func withStderr(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}
