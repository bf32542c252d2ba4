package outage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/bench/servers"
)

// outageEnv says how long the Collector and the fake broker are away each time; 10s. steadyEnv makes it one outage with so long a time
// after it, in place of three outages; the thirds of that whole run are compared.
const (
	outageEnv = "TOLLGATE_OUTAGE"
	steadyEnv = "TOLLGATE_STEADY"
)

const (
	// cycles are outages with the time around them. Memory differs between an outage and the rest, so it is compared from cycle to cycle.
	cycles = 3
	// interval is the time between two scrapes.
	interval = 100 * time.Millisecond
	// patience is how long the sinks that come back may take to have everything.
	patience = 2 * time.Minute
	// growth is how much more memory the last third of the time may need than the second.
	growth = 1.1
	// warm is how long an outage has to be for that to be judged.
	warm = time.Minute
)

// Under load, a Collector and a fake broker are killed and come back after the outage, again and again; another sink is dead all the
// time. Nothing that was acknowledged is lost, the accounts balance whenever somebody looks, memory does not grow, and the healthy sink
// notices nothing.
func TestOutage(t *testing.T) {
	outage, steady, cycles := lasting(t, outageEnv, 10*time.Second), lasting(t, steadyEnv, 0), cycles
	if steady > 0 {
		cycles = 1
	}
	directory := t.TempDir()
	file := filepath.Join(directory, "records.jsonl")
	collector, broker := servers.KeepingCollector(t), newFakeBroker(t)
	tollgate := servers.Tollgate(t, fmt.Sprintf(`
reports:
  directory: %q
  default_sinks: [healthy]
  sinks:
    collector:
      otlp: {endpoint: %q, protocol: grpc}
      batch: {max_backoff: 2s}
    broker:
      kafka: {brokers: [%q], topic: %q}
      batch: {max_backoff: 2s}
    healthy:
      file: {path: %q, megabytes: 8192}
    dead:
      http: {url: "http://127.0.0.1:1/"}
      batch: {max_backoff: 2s}
`, filepath.Join(directory, "spool"), collector.Address, broker.address, topic, file))
	loads := map[string]*load{}
	for _, sink := range []string{"collector", "broker", "healthy", "dead"} {
		loads[sink] = report(t, tollgate.Address, sink)
	}
	w := &watch{tollgate: tollgate}
	var starts []int // of cycles and of the end, in samples
	for range cycles {
		starts = append(starts, len(w.resident))
		w.look(t, outage/4)
		collector.Kill(t)
		broker.kill(t)
		from := len(w.resident)
		w.look(t, outage)
		to := len(w.resident)
		t.Logf("away for %s: %.0f records wait for the Collector, %.0f for the fake broker; within the outage %s",
			outage, w.last["collector"].Pending, w.last["broker"].Pending, compareMemory(w.resident[from+(to-from)/3:from+(to-from)*2/3], w.resident[from+(to-from)*2/3:to]))
		collector.Start(t)
		broker.start(t)
		back := time.Now()
		w.look(t, outage/4)
		for max(w.last["collector"].Oldest, w.last["broker"].Oldest) > 1 {
			require.Less(t, time.Since(back), patience, "not all is delivered: %v", w.last)
			w.look(t, interval)
		}
	}
	w.look(t, steady)
	starts = append(starts, len(w.resident))
	for _, load := range loads {
		load.end()
	}
	for end := time.Now().Add(patience); w.last["collector"].Pending+w.last["broker"].Pending+w.last["healthy"].Pending > 0; {
		require.True(t, time.Now().Before(end), "not all is delivered: %v", w.last)
		w.look(t, interval)
	}
	for sink, load := range loads {
		accounts := w.last[sink]
		assert.InDelta(t, len(load.acknowledged), accounts.Accepted, 0, sink)
		assert.Zero(t, accounts.DeadLettered+accounts.Dropped+accounts.Filtered, sink)
		t.Logf("%s: %s; slowest answer %s", sink, accounts, load.slowest.Round(time.Millisecond))
	}
	assert.InDelta(t, len(loads["dead"].acknowledged), w.last["dead"].Pending, 0, "nobody takes these")
	t.Logf("duplicates: Collector %d, fake broker %d, file %d",
		loads["collector"].compare(t, readCollector(collector)), loads["broker"].compare(t, broker.read), loads["healthy"].compare(t, lines(file)))

	slices.Sort(w.oldest)
	longest := w.oldest[len(w.oldest)-1]
	t.Logf("oldest pending record of the healthy sink: median %.2f s, p99 %.2f s, at most %.2f s", w.oldest[len(w.oldest)/2], w.oldest[len(w.oldest)*99/100], longest)
	assert.Less(t, longest, outage.Seconds()/5, "the dead sinks held up the healthy one")

	t.Logf("%d scrapes, at most %s apart; all accounts balanced in all of them", len(w.resident), w.apart.Round(time.Millisecond))
	var course []string
	for part := range slices.Chunk(w.resident[:starts[cycles]], starts[cycles]/(8*cycles)+1) {
		course = append(course, fmt.Sprintf("%.0f", median(part)))
	}
	t.Logf("RSS in MiB, medians of parts of the run: %s; peak %.0f", strings.Join(course, " "), slices.Max(w.resident))
	if steady > 0 {
		third := starts[1] / 3
		starts = []int{0, third, 2 * third, 3 * third}
	}
	second, last := w.resident[starts[1]:starts[2]], w.resident[starts[2]:starts[3]]
	t.Logf("of the last third against the second: %s", compareMemory(second, last))
	if outage < warm {
		t.Logf("which says nothing: with outages shorter than %s the heap is still finding its size", warm)
		return
	}
	assert.LessOrEqual(t, median(last), growth*median(second), "memory grows")
}

// lasting reads a duration from the environment.
func lasting(t *testing.T, name string, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// watch is what was seen of a Tollgate.
type watch struct {
	tollgate *servers.Server

	last     map[string]*servers.Accounts
	at       time.Time
	apart    time.Duration // the longest time between two scrapes
	oldest   []float64     // ages in the healthy sink's queue, in seconds
	resident []float64     // MiB
}

// look scrapes for as long as it says. All accounts must balance.
func (w *watch) look(t *testing.T, long time.Duration) {
	t.Helper()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for end := time.Now().Add(long); time.Now().Before(end); <-ticker.C {
		all, err := w.tollgate.Accounts(t)
		require.NoError(t, err)
		require.Len(t, all, 4)
		for sink, accounts := range all {
			require.True(t, accounts.Balance(), "%s: %s", sink, accounts)
		}
		now := time.Now()
		if !w.at.IsZero() {
			w.apart = max(w.apart, now.Sub(w.at))
		}
		w.at, w.last = now, all
		w.oldest = append(w.oldest, all["healthy"].Oldest)
		w.resident = append(w.resident, float64(w.tollgate.Resident(t))/(1<<20))
	}
}

func compareMemory(before, after []float64) string {
	return fmt.Sprintf("RSS went from %.1f to %.1f MiB (%.3f)", median(before), median(after), median(after)/median(before))
}

// lines reads a file of JSON lines.
func lines(file string) func(*testing.T, func(id, number string)) {
	return func(t *testing.T, see func(id, number string)) {
		t.Helper()
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		for text := range bytes.Lines(content) {
			var l line
			require.NoError(t, json.Unmarshal(text, &l))
			see(l.ID, l.Variables.Number)
		}
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
