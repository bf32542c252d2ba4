// Package servers starts the real servers that are measured: each is a process of its own, on loopback ports that it keeps however
// often it is started.
package servers

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// BinaryEnv names a Tollgate that is to be started in place of one that is built from the checkout.
const BinaryEnv = "TOLLGATE_BIN"

// root is the repository's, from a package of this module.
const root = "../.."

// patience is how long a server may take to listen. It bounds a run that fails and is no measure.
const patience = 2 * time.Minute

// Server is a process, or one that was or will be.
type Server struct {
	// Address is the host:port where it takes gRPC.
	Address string
	// Admin is the host:port of its health, metrics and profiles; empty for a Collector.
	Admin string

	directory string
	binary    string
	arguments []string
	// configuration is written to its file before each start.
	configuration func() string
	ready         func() bool
	process       *exec.Cmd
}

// Tollgate starts `tollgate serve` with these settings, in YAML. The binary is that of BinaryEnv, or built from the checkout.
func Tollgate(t *testing.T, settings string) *Server {
	t.Helper()
	s := &Server{Address: freeAddress(t), Admin: freeAddress(t), directory: t.TempDir(), configuration: func() string { return settings }}
	s.binary = os.Getenv(BinaryEnv)
	if s.binary == "" {
		s.binary = filepath.Join(s.directory, "tollgate")
		build(t, root, "-trimpath", "-ldflags", "-s -w", "-o", s.binary, "./cmd/tollgate")
	}
	s.arguments = []string{"serve", "--listen", s.Address, "--admin", s.Admin, "--settings", s.file()}
	s.ready = func() bool {
		_, err := s.Get(t, "/readyz")
		return err == nil
	}
	s.begin(t)
	return s
}

// Collector starts the OpenTelemetry Collector of test/collector. The configuration is made anew for each of its lives; listen is
// where its receiver must take gRPC.
func Collector(t *testing.T, configuration func(listen string) string) *Server {
	t.Helper()
	s := &Server{Address: freeAddress(t), directory: t.TempDir()}
	s.configuration = func() string { return configuration(s.Address) }
	var err error
	if s.binary, err = filepath.Abs(filepath.Join(root, "test", "collector", "bin", "otelcol")); err != nil {
		t.Fatal(err)
	}
	build(t, filepath.Join(root, "test", "collector"), "-o", s.binary, ".")
	s.arguments = []string{"--config=file:" + s.file()}
	s.ready = func() bool { return listens(t, s.Address) }
	s.begin(t)
	return s
}

// OPAEnvoy starts opa-envoy-plugin with a policy, in Rego, and the path of its decision. It logs no decisions.
func OPAEnvoy(t *testing.T, policy, path string) *Server {
	t.Helper()
	s := &Server{Address: freeAddress(t), directory: t.TempDir()}
	s.configuration = func() string {
		return fmt.Sprintf("plugins: {envoy_ext_authz_grpc: {addr: %q, path: %s}}\n", s.Address, path)
	}
	module := filepath.Join(root, "bench", "opa-envoy")
	var err error
	if s.binary, err = filepath.Abs(filepath.Join(module, "bin", "opa-envoy-plugin")); err != nil {
		t.Fatal(err)
	}
	build(t, module, "-trimpath", "-o", s.binary, "github.com/open-policy-agent/opa-envoy-plugin/cmd/opa-envoy-plugin")
	rego := filepath.Join(s.directory, "policy.rego")
	if err := os.WriteFile(rego, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	s.arguments = []string{"run", "--server", "--addr", freeAddress(t), "--config-file", s.file(), "--log-level", "error", "--skip-version-check", rego}
	s.ready = func() bool { return listens(t, s.Address) }
	s.begin(t)
	return s
}

func listens(t *testing.T, address string) bool {
	t.Helper()
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err == nil {
		connection.Close()
	}
	return err == nil
}

func build(t *testing.T, directory string, arguments ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", append([]string{"build"}, arguments...)...) //nolint:gosec // our own arguments
	command.Dir = directory
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("building in %s: %v\n%s", directory, err, output)
	}
}

func (s *Server) file() string { return filepath.Join(s.directory, "configuration.yaml") }

func (s *Server) log() string { return filepath.Join(s.directory, "log") }

// begin is the first start. The server ends with the test.
func (s *Server) begin(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if s.process != nil {
			s.Kill(t)
		}
		if t.Failed() {
			log, _ := os.ReadFile(s.log())
			t.Logf("the end of the log of %s:\n%s", s.binary, log[max(0, len(log)-4000):])
		}
	})
	s.Start(t)
}

// Start starts a process and returns when it serves.
func (s *Server) Start(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(s.file(), []byte(s.configuration()), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()                                 //nolint:errcheck // the process's
	process := exec.Command(s.binary, s.arguments...) //nolint:gosec,noctx // ours; it lives until Kill, which the test's end calls
	process.Stdout, process.Stderr = log, log
	process.SysProcAttr = dieWithParent()
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	s.process = process
	for end := time.Now().Add(patience); !s.ready(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not serve after %s", s.binary, patience)
		}
	}
}

// Kill ends the process without a warning.
func (s *Server) Kill(t *testing.T) {
	t.Helper()
	if err := s.process.Process.Kill(); err != nil {
		t.Errorf("%s: %v", s.binary, err)
	}
	_ = s.process.Wait() // it says that the process was killed
	s.process = nil
}

// Get asks the admin listener, and returns the body of an answer that is OK.
func (s *Server) Get(t *testing.T, path string) ([]byte, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Admin+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return body, err
}

// given are the ports that were given out, which nobody else gets: their servers come to listen only later.
var given struct {
	sync.Mutex
	ports map[int]bool
}

// freeAddress returns an address below the ports that Linux gives to outgoing connections, so that no client takes it while the
// server is down.
func freeAddress(t *testing.T) string {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	for range 1000 {
		port := 20_000 + rand.IntN(12_000) //nolint:gosec // no secret
		if given.ports[port] {
			continue
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		if err == nil {
			listener.Close()
			given.ports[port] = true
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}
