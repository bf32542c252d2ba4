package reports

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
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// server is `tollgate serve` on ports of its own, which it keeps however often it is started.
type server struct {
	listen, admin string
	arguments     []string
	log           string // the path of what it wrote, over all its lives
	web           http.Client

	life *life
}

// life is one process.
type life struct {
	command *exec.Cmd
	ended   chan struct{} // closed when it has
	err     error         // how; once ended
}

// newServer prepares a server with these settings, in YAML.
func newServer(t *testing.T, settings string) *server {
	t.Helper()
	directory := t.TempDir()
	s := &server{listen: freeAddress(t), admin: freeAddress(t), log: filepath.Join(directory, "log"), web: http.Client{Timeout: patience}}
	file := filepath.Join(directory, "settings.yaml")
	require.NoError(t, os.WriteFile(file, []byte(settings), 0o600))
	s.arguments = []string{"serve", "--listen", s.listen, "--admin", s.admin, "--settings", file}
	t.Cleanup(func() {
		s.kill()
		s.web.CloseIdleConnections()
		log, err := os.ReadFile(s.log)
		assert.NoError(t, err)
		for _, never := range []string{"panic", "fatal error", "DATA RACE"} {
			assert.NotContains(t, string(log), never)
		}
		if t.Failed() {
			t.Logf("the end of tollgate's log:\n%s", log[max(0, len(log)-4000):])
		}
	})
	return s
}

// startServer starts a server and waits until it serves.
func startServer(t *testing.T, settings string) *server {
	t.Helper()
	s := newServer(t, settings)
	s.start(t)
	s.awaitReady(t)
	return s
}

// start starts a process and does not wait for anything.
func (s *server) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer log.Close()
	command := exec.Command(tollgate, s.arguments...)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = dieWithParent()
	l := &life{command: command, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// A child dies with the thread that started it, so that thread has to stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			l.err = command.Wait()
			close(l.ended)
		}
	}()
	require.NoError(t, <-started)
	s.life = l
}

func (s *server) pid() int { return s.life.command.Process.Pid }

func (s *server) alive() bool {
	select {
	case <-s.life.ended:
		return false
	default:
		return true
	}
}

// kill ends the process without a warning.
func (s *server) kill() {
	if s.life == nil {
		return
	}
	_ = s.life.command.Process.Kill()
	<-s.life.ended
}

// terminate asks the process to end, and returns how long it took. It has to end in an orderly way.
func (s *server) terminate(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	require.NoError(t, s.life.command.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.life.ended:
	case <-time.After(patience):
		require.Fail(t, "tollgate does not end after SIGTERM")
	}
	require.NoError(t, s.life.err, "the exit status after SIGTERM")
	return time.Since(begin)
}

func (s *server) awaitReady(t *testing.T) {
	t.Helper()
	s.await(t, "tollgate to be ready", func() bool {
		code, _, err := s.get("/readyz")
		return err == nil && code == http.StatusOK
	})
}

// await waits until something has happened, as long as the process lives.
func (s *server) await(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !happened(); time.Sleep(5 * time.Millisecond) {
		require.True(t, s.alive(), "tollgate ended while the test waited for %s", what)
		require.True(t, time.Now().Before(end), "waited %s for %s", patience, what)
	}
}

// get asks the admin listener.
func (s *server) get(path string) (code int, body string, err error) {
	reply, err := s.web.Get("http://" + s.admin + path)
	if err != nil {
		return 0, "", err
	}
	defer reply.Body.Close()
	content, err := io.ReadAll(reply.Body)
	return reply.StatusCode, string(content), err
}

// connect returns a connection that comes back soon after the server does.
func (s *server) connect(t *testing.T) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient(s.listen, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond},
		MinConnectTimeout: time.Second,
	}))
	require.NoError(t, err)
	t.Cleanup(func() { connection.Close() })
	return connection
}

var given struct {
	sync.Mutex
	ports map[int]bool
}

// freeAddress returns an address that nothing listens on. Ports are from below those that Linux gives to connections, any of which
// could take it before the server does.
func freeAddress(t *testing.T) string {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		if given.ports[port] {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		require.NoError(t, err)
		require.NoError(t, listener.Close())
		given.ports[port] = true
		return address
	}
	require.Fail(t, "no free port")
	return ""
}
