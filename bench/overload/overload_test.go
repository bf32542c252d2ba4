package overload

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/bench/servers"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// What can be set from outside.
const (
	roundsEnv  = "TOLLGATE_ROUNDS"  // 5
	secondsEnv = "TOLLGATE_SECONDS" // of each part of a round: 4
	otherEnv   = "TOLLGATE_OTHER"   // a binary to compare with, such as one without a change
)

// perSecond is how many checks there are, half of them of a header and half of a policy.
const perSecond = 250

// target is a Tollgate that is measured. The servers have one core, and the load has another.
type target struct {
	name             string
	server           *servers.Server
	connection       *grpc.ClientConn
	checks           [][]byte
	alone, beside    []time.Duration // times of checks
	p99Alone         []time.Duration // of rounds
	p99Beside        []time.Duration
	processor, spent time.Duration // during the flood
	peak             int64         // memory during the flood
	flooded          flooded
}

// TestOverload asks the same checks with nothing else going on and while reports come faster than they can be taken, in turn. With
// another binary, that one too.
func TestOverload(t *testing.T) {
	rounds, part := number(t, roundsEnv, 5), time.Duration(number(t, secondsEnv, 4))*time.Second
	if runtime.NumCPU() < 2 {
		t.Skip("the load needs a core of its own")
	}
	targets := []*target{newTarget(t, "Tollgate")}
	if other := os.Getenv(otherEnv); other != "" {
		t.Setenv(servers.BinaryEnv, other)
		targets = append(targets, newTarget(t, "the other"))
	}
	onCore(t, 1)
	for round := range rounds + 1 {
		for _, g := range targets {
			alone := g.ask(t, part)
			processor, begin := g.server.CPU(t), time.Now()
			end := startFlood(t, g.server.Address)
			g.ask(t, time.Second/2) // until it is under way
			beside := g.ask(t, part)
			g.peak = max(g.peak, g.server.Resident(t))
			flooded := end()
			if round == 0 { // does not count
				continue
			}
			g.processor, g.spent = g.processor+g.server.CPU(t)-processor, g.spent+time.Since(begin)
			g.flooded.Accepted += flooded.Accepted
			g.flooded.Refused += flooded.Refused
			g.flooded.Failed += flooded.Failed
			g.alone, g.beside = append(g.alone, alone...), append(g.beside, beside...)
			g.p99Alone, g.p99Beside = append(g.p99Alone, quantile(alone, 0.99)), append(g.p99Beside, quantile(beside, 0.99))
		}
	}
	for _, g := range targets {
		t.Logf("%s: checks alone p50 %s, p99 %s (rounds %s); while reports flood p50 %s, p99 %s (rounds %s)", g.name,
			quantile(g.alone, 0.5), quantile(g.alone, 0.99), extent(g.p99Alone), quantile(g.beside, 0.5), quantile(g.beside, 0.99), extent(g.p99Beside))
		seconds := g.spent.Seconds()
		t.Logf("%s: records taken %.0f/s, report calls refused %.0f/s, failed %d; %.2f cores; RSS at most %d MiB", g.name,
			float64(g.flooded.Accepted*floodRecords)/seconds, float64(g.flooded.Refused)/seconds, g.flooded.Failed, g.processor.Seconds()/seconds, g.peak>>20)
	}
}

func newTarget(t *testing.T, name string) *target {
	t.Helper()
	onCore(t, 0)
	directory := t.TempDir()
	server := servers.Tollgate(t, fmt.Sprintf("evaluation_timeout: 10s\nreports:\n  directory: %q\n  sinks:\n    records: {file: {path: %q, keep_files: 1}, queue: {full: drop_oldest}}\n",
		filepath.Join(directory, "spool"), filepath.Join(directory, "records.jsonl")))
	connection, err := grpc.NewClient(server.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { connection.Close() })
	key := "abc"
	return &target{name: name, server: server, connection: connection, checks: [][]byte{
		mixertest.Call(&configpb.Params{Name: "key", AuthKey: &key}, key),
		mixertest.Call(&configpb.Params{
			Name: "policy", RegoVersion: configpb.Params_V1, CheckMethod: proto.String("data.overload.allow"),
			Policy: []string{"package overload\ndefault allow := false\nallow if {\n\tinput.subject.user == \"alice\"\n\tinput.action.method in {\"GET\", \"HEAD\"}\n}"},
		}, key),
	}}
}

// ask makes checks at a fixed pace, so that a slow answer holds up no later one, and returns how long the answers took. All must allow.
func (g *target) ask(t *testing.T, long time.Duration) []time.Duration {
	t.Helper()
	n := int(long.Seconds() * perSecond)
	answers, errs := make([]time.Duration, n), make([]error, n)
	var all sync.WaitGroup
	begin := time.Now()
	for i := range n {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / perSecond)))
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			begin := time.Now()
			result, err := mixertest.Send(ctx, g.connection, g.checks[i%len(g.checks)])
			answers[i], errs[i] = time.Since(begin), err
			if err == nil && result.Status.Code != 0 {
				errs[i] = fmt.Errorf("denied: %s", result.Status.Message)
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	return answers
}

// onCore keeps this process, and all it starts from now on, to one core.
func onCore(t *testing.T, core int) {
	t.Helper()
	var set unix.CPUSet
	set.Set(core)
	threads, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		require.NoError(t, err)
		_ = unix.SchedSetaffinity(id, &set) // some have ended
	}
}

// quantile returns the time that this share did not exceed, in steps of 10 µs.
func quantile(times []time.Duration, share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[int(share*float64(len(sorted)-1))].Round(10 * time.Microsecond)
}

func extent(times []time.Duration) string {
	return fmt.Sprintf("%s to %s", slices.Min(times), slices.Max(times))
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	require.Positive(t, n, name)
	return n
}
