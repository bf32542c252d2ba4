package sink_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	policy "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/deadletter"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/otlp"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
	"github.com/tollgate-mesh/tollgate/template/logentry"
	"github.com/tollgate-mesh/tollgate/template/metric"
	"github.com/tollgate-mesh/tollgate/template/tracespan"
)

// TestOutage kills a Collector under load, twice, and starts it again on the same ports after an outage of a few seconds, or of
// TOLLGATE_OUTAGE. Then it has every record that was accepted, by gRPC and by HTTP; no more of them twice than were under way at a
// kill; and the accounts have balanced all the time.
func TestOutage(t *testing.T) {
	outage := 2 * time.Second
	if set := os.Getenv("TOLLGATE_OUTAGE"); set != "" {
		var err error
		outage, err = time.ParseDuration(set)
		require.NoError(t, err)
	}
	const (
		perCall = 10
		calls   = 100 // a second, of each kind
		kills   = 2
	)
	batching := report.Batching{
		Records: 200, Bytes: 1 << 20, Wait: 50 * time.Millisecond, Concurrency: 2, Timeout: time.Minute,
		Backoff: 50 * time.Millisecond, MaxBackoff: time.Second,
	}
	c := newCollector(t, false)
	c.start(t)
	var lanes []report.Lane
	for _, o := range []otlp.Options{{Protocol: "grpc", Endpoint: c.grpc}, {Protocol: "http", Endpoint: "http://" + c.http}} {
		o.Resource = map[string]string{"lane": o.Protocol}
		sink, err := otlp.New(o, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		queue, err := spool.NewMemory(spool.Options{})
		require.NoError(t, err)
		lanes = append(lanes, report.Lane{
			Name: o.Protocol, Sink: sink, Queue: queue, Batching: batching, DeadLetters: deadletter.NewDiscarder(o.Protocol, slog.Default()),
		})
	}
	pipeline, err := report.NewPipeline(lanes, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	require.NoError(t, err)
	ctx := context.WithoutCancel(t.Context())
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- pipeline.Run(run, 0) }()

	var workers sync.WaitGroup
	load, endLoad := context.WithCancel(ctx)
	var accepted atomic.Int64 // numbers below it were
	workers.Go(func() {
		tick := time.NewTicker(time.Second / calls)
		defer tick.Stop()
		for load.Err() == nil {
			<-tick.C
			for _, call := range callsFrom(t, int(accepted.Load()), perCall) {
				if err := pipeline.Accept(ctx, call); err != nil {
					t.Errorf("a call is not accepted: %v", err)
					return
				}
			}
			accepted.Add(perCall)
		}
	})
	samples := 0
	var imbalance []spool.Stats
	workers.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for load.Err() == nil {
			<-tick.C
			for _, s := range pipeline.Stats() {
				samples++
				if !s.Balanced() {
					imbalance = append(imbalance, s)
				}
			}
		}
	})

	delivered := func() uint64 {
		s := pipeline.Stats()
		return min(s["grpc"].Done.Records, s["http"].Done.Records)
	}
	var most uint64
	for range kills {
		before := delivered()
		require.Eventually(t, func() bool { return delivered() > before+1000 }, patience, 5*time.Millisecond, "nothing is delivered")
		c.kill(t)
		down := time.NewTimer(outage)
		<-down.C
		most = max(most, pipeline.Stats()["grpc"].Pending.Records)
		c.start(t)
	}
	before := delivered()
	require.Eventually(t, func() bool { return delivered() > before+1000 }, patience, 5*time.Millisecond, "nothing is delivered after the last start")
	endLoad()
	workers.Wait()
	require.Eventually(t, func() bool {
		s := pipeline.Stats()
		return s["grpc"].Pending.Records+s["http"].Pending.Records == 0
	}, patience, 10*time.Millisecond, "not all is delivered")
	stats := pipeline.Stats()
	stop()
	require.NoError(t, <-ended)
	c.stop(t)

	assert.Empty(t, imbalance)
	n := int(accepted.Load())
	found := c.count(t)
	for _, lane := range lanes {
		s := stats[lane.Name]
		assert.True(t, s.Balanced())
		assert.Equal(t, uint64(3*n), s.Accepted.Records)
		assert.Equal(t, s.Accepted, s.Done)
		assert.Zero(t, s.DeadLettered+s.Filtered)
		got := found[lane.Name]
		twice := 0
		for i := range n {
			for _, times := range []int{got.logs[i], got.spans[i]} {
				if !assert.Positive(t, times, "record %d is lost", i) {
					return
				}
				twice += times - 1
			}
		}
		bound := kills * batching.Concurrency * batching.Records
		assert.LessOrEqual(t, twice, bound)
		assert.GreaterOrEqual(t, got.sum, n)
		assert.LessOrEqual(t, got.sum, n+bound)
		t.Logf("%s: %d records accepted, %d log records and spans twice, the counter is %d too large; at most %d were pending; %d samples",
			lane.Name, 3*n, twice, got.sum-n, most, samples)
	}
}

// callsFrom returns one call of each signal with the records of the given numbers.
func callsFrom(t *testing.T, first, count int) []*report.Call {
	t.Helper()
	calls := []*report.Call{{Kind: record.KindLogEntry}, {Kind: record.KindTraceSpan}, {Kind: record.KindMetric}}
	for i := first; i < first+count; i++ {
		for j, m := range []marshaler{
			&logentry.InstanceMsg{Name: "accesslog.instance.a", Timestamp: stamp(noon, 0), Variables: map[string]*policy.Value{"n": integer(int64(i)), "method": text("GET")}},
			&tracespan.InstanceMsg{Name: "span.instance.a", TraceId: "463ac35c9f6413ad48485a3953bb6124", SpanId: fmt.Sprintf("%016x", i+1), StartTime: stamp(noon, 0), EndTime: stamp(noon, 1)},
			&metric.InstanceMsg{Name: "requests.instance.a", Value: integer(1)},
		} {
			calls[j].Instances = append(calls[j].Instances, marshal(t, m))
		}
	}
	return calls
}

// tally is how often each number arrived.
type tally struct {
	logs, spans map[int]int
	sum         int
}

func (c *collector) count(t *testing.T) map[string]*tally {
	t.Helper()
	found := map[string]*tally{}
	of := func(resource map[string]any) *tally {
		lane, _ := value(attributes(t, resource)["lane"], "stringValue").(string)
		if found[lane] == nil {
			found[lane] = &tally{logs: map[int]int{}, spans: map[int]int{}}
		}
		return found[lane]
	}
	c.read(t, func(w *written) {
		for _, r := range w.ResourceLogs {
			for _, l := range r.ScopeLogs[0].LogRecords {
				n, err := strconv.Atoi(value(attributes(t, l)["n"], "intValue").(string))
				require.NoError(t, err)
				of(r.Resource).logs[n]++
			}
		}
		for _, r := range w.ResourceSpans {
			for _, s := range r.ScopeSpans[0].Spans {
				n, err := strconv.ParseInt(s["spanId"].(string), 16, 64)
				require.NoError(t, err)
				of(r.Resource).spans[int(n)-1]++
			}
		}
		for _, r := range w.ResourceMetrics {
			for _, m := range r.ScopeMetrics[0].Metrics {
				for _, p := range value(m["sum"], "dataPoints").([]any) {
					n, err := strconv.Atoi(value(p, "asInt").(string))
					require.NoError(t, err)
					of(r.Resource).sum += n
				}
			}
		}
	})
	return found
}
