package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// patience bounds a test that fails and is no measure.
const patience = 2 * time.Minute

// user is whom the container's process runs as.
type user struct{ uid, gid int }

// container is one that runs.
type container struct {
	id, state, listen, admin string
	process                  *exec.Cmd
	ended                    chan error
}

// start runs the image under runc: the settings and the spool mounted, nothing else writable, no capabilities, no new privileges.
func start(t *testing.T, bundle string, u user) *container {
	t.Helper()
	mounted := t.TempDir()
	require.NoError(t, os.Chmod(mounted, 0o755)) // as a ConfigMap is mounted
	for directory, owner := range map[string]user{"settings": {}, "secrets": {}, "spool": u} {
		require.NoError(t, os.Mkdir(filepath.Join(mounted, directory), 0o755))
		require.NoError(t, os.Chown(filepath.Join(mounted, directory), owner.uid, owner.gid))
	}
	c := &container{id: fmt.Sprintf("tollgate-%d-%d", os.Getpid(), u.uid), state: t.TempDir(), listen: freeAddress(t), admin: freeAddress(t), ended: make(chan error, 1)}
	// The base's settings, but for where it listens and how long it drains.
	settings, err := os.ReadFile(root + "/operatorconfig/kubernetes/base/settings.yaml")
	require.NoError(t, err)
	changed := strings.NewReplacer(`":44225"`, c.listen, `":44226"`, c.admin, "drain: 35s", "drain: 10s").Replace(string(settings))
	require.Contains(t, changed, "drain: 10s")
	require.NoError(t, os.WriteFile(mounted+"/settings/settings.yaml", []byte(changed), 0o644))

	var spec map[string]any
	content, err := os.ReadFile(bundle + "/config.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(content, &spec))
	process := spec["process"].(map[string]any)
	process["terminal"] = false
	process["user"] = map[string]any{"uid": u.uid, "gid": u.gid}
	process["args"] = []string{"/tollgate", "serve", "--settings", "/etc/tollgate/settings/settings.yaml"}
	process["noNewPrivileges"] = true
	process["capabilities"] = map[string]any{}
	spec["root"].(map[string]any)["readonly"] = true
	// The network is this machine's, so that the test can call.
	spec["linux"].(map[string]any)["namespaces"] = []any{
		map[string]any{"type": "pid"}, map[string]any{"type": "ipc"}, map[string]any{"type": "uts"}, map[string]any{"type": "mount"},
	}
	spec["mounts"] = []any{
		map[string]any{"destination": "/proc", "type": "proc", "source": "proc"},
		map[string]any{"destination": "/etc/tollgate/settings", "type": "bind", "source": mounted + "/settings", "options": []string{"bind", "ro"}},
		map[string]any{"destination": "/etc/tollgate/secrets", "type": "bind", "source": mounted + "/secrets", "options": []string{"bind", "ro"}},
		map[string]any{"destination": "/var/lib/tollgate", "type": "bind", "source": mounted + "/spool", "options": []string{"bind", "rw"}},
	}
	content, err = json.Marshal(spec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(bundle+"/config.json", content, 0o600))

	log, err := os.Create(filepath.Join(c.state, "log"))
	require.NoError(t, err)
	c.process = exec.Command("runc", "--root", c.state, "run", "--bundle", bundle, c.id)
	c.process.Stdout, c.process.Stderr = log, log
	require.NoError(t, c.process.Start())
	go func() { c.ended <- c.process.Wait() }()
	t.Cleanup(func() {
		_ = exec.Command("runc", "--root", c.state, "delete", "--force", c.id).Run()
		_ = log.Close()
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("the container:\n%s", said)
		}
	})
	return c
}

// given are the addresses that were given out. Nobody gets one twice: it is free until its container listens.
var given = map[string]bool{}

// freeAddress returns an address below the ports that Linux gives to outgoing connections, so that no client takes it meanwhile.
func freeAddress(t *testing.T) string {
	t.Helper()
	var listen net.ListenConfig
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(12_000))
		if given[address] {
			continue
		}
		if listener, err := listen.Listen(t.Context(), "tcp", address); err == nil {
			listener.Close()
			given[address] = true
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// runc runs one of its commands on the container.
func (c *container) runc(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "runc", append([]string{"--root", c.state}, arguments...)...).CombinedOutput()
	return string(output), err
}

// healthcheck is what the manifests' startup probe runs.
func (c *container) healthcheck(t *testing.T) error {
	t.Helper()
	output, err := c.runc(t, "exec", c.id, "/tollgate", "healthcheck", "--address", c.listen)
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

func (c *container) ready(t *testing.T) error {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.admin+"/readyz", nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(response.Body)
		return errors.New(string(said))
	}
	return nil
}

// check asks for a decision as Mixer does, and returns its code.
func (c *container) check(t *testing.T, token string) (code int32, err error) {
	t.Helper()
	connection, err := grpc.NewClient(c.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer connection.Close()
	reply, err := mixertest.Send(t.Context(), connection, mixertest.Call(&configpb.Params{AuthKey: new("abc")}, token))
	if err != nil {
		return 0, err
	}
	return reply.Status.Code, nil
}

// serves runs the image as a user, asks it, and ends it as a cluster does.
func serves(t *testing.T, bundle string, u user) {
	t.Helper()
	c := start(t, bundle, u)
	require.EventuallyWithT(t, func(collect *assert.CollectT) { assert.NoError(collect, c.healthcheck(t)) }, patience, 200*time.Millisecond)
	require.NoError(t, c.ready(t))
	for token, want := range map[string]int32{"abc": 0, "wrong": 7} {
		code, err := c.check(t, token)
		require.NoError(t, err)
		assert.Equal(t, want, code, token)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid(t)))
	require.NoError(t, err)
	assert.Contains(t, string(status), fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d\nGid:\t%d\t%[2]d\t%[2]d\t%[2]d\n", u.uid, u.gid))
	assert.Contains(t, string(status), "CapEff:\t0000000000000000\n")
	assert.Contains(t, string(status), "NoNewPrivs:\t1\n")

	output, err := c.runc(t, "kill", c.id, "TERM")
	require.NoError(t, err, output)
	require.EventuallyWithT(t, func(collect *assert.CollectT) { assert.ErrorContains(collect, c.ready(t), "shutting down") }, patience, 20*time.Millisecond)
	code, err := c.check(t, "abc")
	require.NoError(t, err, "calls are taken as long as it drains")
	assert.Zero(t, code)
	require.Error(t, c.healthcheck(t), "it drains")
	select {
	case err := <-c.ended:
		require.NoError(t, err, "an orderly end is exit status 0")
	case <-time.After(patience):
		require.FailNow(t, "it does not end")
	}
}

func (c *container) pid(t *testing.T) int {
	t.Helper()
	var state struct{ Pid int }
	output, err := c.runc(t, "state", c.id)
	require.NoError(t, err, output)
	require.NoError(t, json.Unmarshal([]byte(output), &state))
	return state.Pid
}
