package adapter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// How many configurations TestMemoryIsBounded sends.
const configurations = 10_000

// TestMemoryIsBounded sends ten thousand handlers, all different, to the real binary. When its caches have filled up its memory
// stays what it is: the last third of the configurations takes no more than a tenth above the second third.
func TestMemoryIsBounded(t *testing.T) {
	p := startProcess(t)
	connection := dial(t, p.address)
	var (
		next      atomic.Int64
		callers   sync.WaitGroup
		mu        sync.Mutex
		resident  [3][]uint64
		unplanned atomic.Int64
	)
	begin := time.Now()
	for range 4 {
		callers.Go(func() {
			for i := int(next.Add(1)) - 1; i < configurations; i = int(next.Add(1)) - 1 {
				params, allowed := configuration(i)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				result, err := mixertest.Send(ctx, connection, mixertest.Call(params, "abc"))
				cancel()
				if err != nil {
					t.Errorf("configuration %d: %v", i, err)
					return
				}
				if result.Status.Code == 0 && !allowed {
					t.Errorf("configuration %d was allowed", i)
				}
				if allowed && result.Status.Code != 0 {
					unplanned.Add(1)
				}
				if i%50 == 0 {
					rss, err := p.resident()
					if err != nil {
						t.Errorf("resident memory: %v", err)
						return
					}
					mu.Lock()
					resident[i*3/configurations] = append(resident[i*3/configurations], rss)
					mu.Unlock()
				}
			}
		})
	}
	callers.Wait()
	mean := func(samples []uint64) (sum uint64) {
		for _, sample := range samples {
			sum += sample / uint64(len(samples))
		}
		return sum
	}
	first, second, last := mean(resident[0]), mean(resident[1]), mean(resident[2])
	t.Logf("%d configurations in %s: %d MiB, %d MiB, %d MiB resident in the thirds; %d that would be allowed were not, for want of time",
		configurations, time.Since(begin).Round(time.Second), first>>20, second>>20, last>>20, unplanned.Load())
	assert.LessOrEqual(t, last, second+second/10)
	// On a busy machine some take longer to compile than a call may wait; if most did, nothing was measured.
	assert.Less(t, unplanned.Load(), int64(configurations/10))
}

// configuration makes one of many handlers, all different: keys and policies, some of them wrong, some large.
func configuration(i int) (params *configpb.Params, allowed bool) {
	name := fmt.Sprintf("handler-%d", i)
	switch i % 8 {
	case 0, 1, 2:
		return &configpb.Params{Name: name, AuthKey: pointer("abc")}, true
	case 3:
		return &configpb.Params{Name: name, AuthKey: pointer(name)}, false
	case 4:
		return regoParams(name, "package mixerauthz\nallow { input.subject.user == \"alice\" }\nallow { input.subject.user == \""+name+"\" }"), true
	case 5:
		return regoParams(name, strings.Replace(bucketAdmins, "alice", name, 1)), false
	case 6:
		return regoParams(name, "package mixerauthz\nallow { "+strings.ReplaceAll(name, "-", "_")+" }"), false
	default:
		return regoParams(name, "package mixerauthz\nallow = false\n#"+strings.Repeat(name, 1_000)), false
	}
}

func pointer[T any](v T) *T { return &v }

// process is the real binary at work.
type process struct {
	address, admin string
	pid            int
}

// startProcess builds the binary as `make build` does, and runs it on loopback.
func startProcess(t *testing.T) *process {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "tollgate")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "github.com/tollgate-mesh/tollgate/cmd/tollgate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))

	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	settings := filepath.Join(t.TempDir(), "settings.yaml")
	require.NoError(t, os.WriteFile(settings, []byte("evaluation_timeout: 10s\n"), 0o600)) // for a busy machine
	command := exec.Command(binary, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--settings", settings)
	command.Stderr = log
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		assert.NoError(t, command.Process.Signal(syscall.SIGTERM))
		assert.NoError(t, command.Wait())
		assert.NoError(t, log.Close())
	})
	p := &process{pid: command.Process.Pid}
	require.Eventually(t, func() bool {
		content, err := os.ReadFile(log.Name())
		require.NoError(t, err)
		for line := range strings.Lines(string(content)) {
			var record struct{ Msg, Address, Admin string }
			if json.Unmarshal([]byte(line), &record) == nil && record.Msg == "serving" {
				p.address, p.admin = record.Address, record.Admin
			}
		}
		return p.address != ""
	}, patience, 10*time.Millisecond)
	return p
}

var residentMetric = regexp.MustCompile(`(?m)^process_resident_memory_bytes (\S+)$`)

// resident returns how many bytes of memory the process holds, from Linux or else from its own metrics.
func (p *process) resident() (uint64, error) {
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid)); err == nil {
		var kilobytes uint64
		_, rest, _ := strings.Cut(string(status), "VmRSS:")
		_, err := fmt.Sscanf(rest, "%d kB", &kilobytes)
		return kilobytes << 10, err
	}
	response, err := http.Get("http://" + p.admin + "/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	match := residentMetric.FindSubmatch(content)
	if match == nil {
		return 0, errors.New("the metrics do not tell")
	}
	bytes, err := strconv.ParseFloat(string(match[1]), 64)
	return uint64(bytes), err
}
