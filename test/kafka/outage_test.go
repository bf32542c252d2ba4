package kafka

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/kafka"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// fakeBroker is a process that keeps its data between its lives.
type fakeBroker struct {
	dir, port string
	address   string
	command   *exec.Cmd
	stop      io.Closer
}

func (f *fakeBroker) up(t *testing.T) {
	t.Helper()
	f.command = exec.Command(os.Args[0])
	f.command.Env = append(os.Environ(), fakeBrokerDir+"="+f.dir, fakeBrokerPort+"="+f.port)
	f.command.Stderr = os.Stderr
	stdin, err := f.command.StdinPipe()
	require.NoError(t, err)
	f.stop = stdin
	stdout, err := f.command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, f.command.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	f.address = strings.TrimSpace(line)
	_, f.port, err = net.SplitHostPort(f.address)
	require.NoError(t, err)
}

// kill leaves it no time to answer. What it answered before is in files.
func (f *fakeBroker) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, f.command.Process.Kill())
	require.Error(t, f.command.Wait())
}

func (f *fakeBroker) down(t *testing.T) {
	t.Helper()
	f.stop.Close()
	require.NoError(t, f.command.Wait())
}

// TestOutage kills the fake broker under load and starts it again a while later. TOLLGATE_OUTAGE says for how long.
func TestOutage(t *testing.T) {
	outage := 10 * time.Second
	if text := os.Getenv("TOLLGATE_OUTAGE"); text != "" {
		var err error
		outage, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	const (
		callers, perCall = 4, 100
		pace             = 200 * time.Millisecond // 2000 records/s
		around           = 3 * time.Second
	)
	broker := &fakeBroker{dir: t.TempDir(), port: "0"}
	broker.up(t)

	sink, err := kafka.New(kafka.Options{Brokers: []string{broker.address}, Topic: topic}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	queue, err := spool.NewMemory(spool.Options{})
	require.NoError(t, err)
	letters := &fakeLetters{}
	p, err := report.NewPipeline([]report.Lane{{
		Name: "kafka", Sink: sink, Queue: queue, DeadLetters: letters, Batching: report.Batching{
			Records: 1000, Bytes: 1 << 20, Wait: 100 * time.Millisecond, Concurrency: 2, Timeout: 5 * time.Second,
			Backoff: 100 * time.Millisecond, MaxBackoff: time.Second,
		},
	}}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, time.Minute) }()

	var mu sync.Mutex
	accepted := map[string]bool{}
	loading, stopLoad := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for caller := range callers {
		load.Go(func() {
			ticker := time.NewTicker(pace)
			defer ticker.Stop()
			for call := 0; loading.Err() == nil; call++ {
				instances, names := make([]string, perCall), make([]string, perCall)
				for i := range instances {
					names[i] = fmt.Sprintf("%d/%d/%d", caller, call, i)
					instances[i] = nothing(names[i]) + field(100, strings.Repeat("x", 300)) // of a later version
				}
				if assert.NoError(t, p.Accept(context.WithoutCancel(loading), &report.Call{Kind: record.KindNothing, Handler: "bookinfo", Instances: instances})) {
					mu.Lock()
					for _, name := range names {
						accepted[name] = true
					}
					mu.Unlock()
				}
				<-ticker.C
			}
		})
	}

	samples := 0
	var resident []int
	watch := func(long time.Duration) {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for end := time.Now().Add(long); time.Now().Before(end); <-ticker.C {
			s := p.Stats()["kafka"]
			require.True(t, s.Balanced(), "%+v", s)
			if samples++; samples%25 == 0 {
				resident = append(resident, residentMiB(t))
			}
		}
	}
	watch(around)
	broker.kill(t)
	watch(outage)
	behind := p.Stats()["kafka"].Pending.Records
	broker.up(t)
	watch(around)
	stopLoad()
	load.Wait()
	for deadline := time.Now().Add(time.Minute); p.Stats()["kafka"].Pending.Frames > 0; {
		require.True(t, time.Now().Before(deadline), "%+v", p.Stats()["kafka"])
		watch(100 * time.Millisecond)
	}
	stop()
	require.NoError(t, <-ended)

	all := consume(t, topic, kgo.SeedBrokers(broker.address))
	broker.down(t)
	stored, idOf := map[string]int{}, map[string]string{}
	for _, s := range all {
		stored[s.Instance]++
		if id, known := idOf[s.Instance]; known {
			assert.Equal(t, id, s.ID, "what comes twice comes under the same id")
		}
		idOf[s.Instance] = s.ID
	}
	for name := range accepted {
		require.Positive(t, stored[name], "%s was accepted and is lost", name)
	}
	assert.Len(t, stored, len(accepted))
	s := p.Stats()["kafka"]
	assert.True(t, s.Balanced())
	assert.EqualValues(t, len(accepted), s.Done.Records)
	assert.Zero(t, s.DeadLettered)
	assert.Empty(t, letters.records)
	assert.Zero(t, s.DroppedTotal().Records)
	t.Logf("outage %s: %d records accepted, %d pending when the fake broker came back, %d stored, of which %d duplicates; %d balanced samples; RSS in MiB every half second: %v",
		outage, len(accepted), behind, len(all), len(all)-len(stored), samples, resident)
}

// fakeLetters keeps dead letters in memory.
type fakeLetters struct {
	mu      sync.Mutex
	records []record.Record
}

func (f *fakeLetters) Keep(records []record.Record, _ error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.records = append(f.records, records...)
	return nil
}

func (*fakeLetters) Close() error { return nil }

// residentMiB is the memory of this process, without the fake broker's.
func residentMiB(t *testing.T) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	require.NoError(t, err)
	return pages * os.Getpagesize() >> 20
}
