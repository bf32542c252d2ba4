package reports

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
)

// A sink that is dead for good delays no other. Calls for both are refused when its queue is full, or cost its oldest records, as
// its settings say; calls for the other one alone do not notice.
func TestDeadSink(t *testing.T) {
	t.Parallel()
	for full, wait := range map[string]time.Duration{
		"refuse":      50 * time.Millisecond,
		"drop_oldest": time.Second, // room comes when a segment is removed, which a busy disk may take its time for
	} {
		t.Run(full, func(t *testing.T) {
			t.Parallel()
			const (
				room       = 64 << 20 // the least that there is
				entryBytes = 20_000
			)
			phase := duration(t, loadEnv, 2*time.Second)
			directory := t.TempDir()
			healthy, blocked := filepath.Join(directory, "healthy.jsonl"), filepath.Join(directory, "blocked")
			dead := filepath.Join(blocked, "dead.jsonl")
			require.NoError(t, os.WriteFile(blocked, nil, 0o600)) // no directory, so nothing can be in it
			s := startServer(t, fmt.Sprintf(`
reports:
  directory: %q
  default_sinks: [healthy]
  flush: 100ms
  sinks:
    healthy:
      file: {path: %q, megabytes: 4096}
      batch: {wait: 20ms}
    dead:
      file: {path: %q}
      batch: {wait: 20ms, max_backoff: 200ms}
      queue: {max_bytes: %d, full: %s, full_wait: %s}
`, filepath.Join(directory, "spool"), healthy, dead, room, full, wait))
			audit, checks := s.audit(t, "healthy", "dead"), s.check(t)
			arrivals := follow(t, healthy, "alone-")
			alone := s.report(t, workload{name: "alone", sinks: []string{"healthy"}, clients: 2, entries: 20, bytes: 100, pause: 5 * time.Millisecond})
			alone.awaitAccepted(t, s)
			time.Sleep(phase)
			beside := time.Now()
			both := s.report(t, workload{name: "both", sinks: []string{"healthy", "dead"}, clients: 4, entries: 20, bytes: entryBytes, pause: 20 * time.Millisecond})
			s.await(t, "the dead sink's queue to be full", func() bool {
				return both.refusals.Load() > 0 || s.mustScrape(t).sum("tollgate_report_dropped_total", "sink=dead", "reason=oldest") > 0
			})
			filled := time.Now()
			alone.awaitAccepted(t, s)
			time.Sleep(phase)
			both.end()
			alone.end()
			s.awaitDelivered(t, "healthy")

			metrics := s.mustScrape(t)
			account := metrics.accounts("dead")
			taken := metrics.sum("tollgate_report_queue_bytes", "sink=dead")
			assert.LessOrEqual(t, taken, float64(room))
			assert.Greater(t, taken, float64(room/2))
			assert.Zero(t, account.delivered)
			assert.Zero(t, metrics.accounts("healthy").dropped)
			assert.Zero(t, metrics.sum("tollgate_report_refused_total", "sink=healthy"))
			code, body, err := s.get("/readyz/reports")
			require.NoError(t, err)
			assert.Equal(t, 200, code, "a full queue is no fault of the disk: %s", body)
			if full == "refuse" {
				assert.Zero(t, account.dropped, "nothing is dropped that was accepted")
				assert.Positive(t, metrics.sum("tollgate_report_refused_total", "sink=dead", "class=full"))
				code, message := both.refusal()
				assert.Equal(t, codes.ResourceExhausted, code)
				assert.Equal(t, "the report could not be accepted: full", message)
			} else {
				assert.Zero(t, both.refusals.Load(), "what can be dropped is no reason to refuse")
				assert.InDelta(t, account.dropped, metrics.sum("tollgate_report_dropped_total", "sink=dead", "reason=oldest"), 0, "for no other reason")
				assert.Positive(t, account.dropped)
			}
			assert.Zero(t, alone.refusals.Load(), "calls that are not for the dead sink are not its affair")
			checked := checks.end(t)
			s.terminate(t)

			// It comes back to life in the next process.
			require.NoError(t, os.Remove(blocked))
			s.start(t)
			s.awaitReady(t)
			after := s.awaitDelivered(t, "dead")
			assert.Zero(t, after.dropped+after.deadLettered, after)
			// The spool forgets what was dropped when it forgets the segment, so the next process may have a little more than was pending:
			// of the segments where the oldest pending record is, which was under way, and where dropping ended.
			const segment = room / 16
			risen := after.recovered - account.pending
			assert.GreaterOrEqual(t, risen, 0.0, "what was pending is what is there")
			assert.LessOrEqual(t, risen, min(account.dropped, 2*segment/entryBytes))
			balanced := audit.end(t)
			s.terminate(t)

			inHealthy := compareAll(t, healthy, alone, both)
			inDead := compare(t, dead, both)
			assert.InDelta(t, after.recovered, inDead.found, 0)
			assert.InDelta(t, account.dropped-risen, inDead.kept-inDead.found, 0, "what was dropped is what is not there")
			assert.Zero(t, inHealthy.unknown, "every call was answered")
			t.Logf("healthy: %s; dead: %d of %d acknowledged records are there, %.0f were dropped, of which %.0f came back in the next process; %s; %s",
				inHealthy, inDead.found, inDead.kept, account.dropped, risen, balanced, checked)

			seen := arrivals()
			delays := map[string][]time.Duration{}
			for _, c := range alone.clients {
				for i, made := range c.calls {
					at, arrived := seen[fmt.Sprintf("%s/%d", c.name, i)]
					require.True(t, arrived, "nobody saw call %d of %s arrive", i, c.name)
					when := "before"
					switch {
					case made.at.After(filled):
						when = "beside a full queue"
					case made.at.After(beside):
						when = "while the queue fills"
					}
					delays[when] = append(delays[when], at.Sub(made.at))
				}
			}
			for _, when := range []string{"before", "while the queue fills", "beside a full queue"} {
				all := delays[when]
				require.NotEmpty(t, all, when)
				slices.Sort(all)
				t.Logf("from the answer to the healthy sink's file, %s: p50 %s, p99 %s, most %s", when, percentile(all, 50), percentile(all, 99), all[len(all)-1].Round(time.Millisecond))
				assert.Less(t, all[len(all)-1], patience/2, "as long as a sink that is dead for good is dead")
			}
		})
	}
}

// follow watches a file grow, and returns when the first record of each call was seen whose client has this prefix.
func follow(t *testing.T, path, prefix string) (end func() map[string]time.Time) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	seen := map[string]time.Time{}
	go func() {
		defer close(ended)
		mark := []byte(`"id":"` + prefix)
		var file *os.File
		defer func() { _ = file.Close() }() // an error if it never was there
		var rest []byte
		for last := false; !last; {
			select {
			case <-ctx.Done():
				last = true // and one more look
			case <-time.After(2 * time.Millisecond):
			}
			if file == nil {
				var err error
				if file, err = os.Open(path); err != nil {
					continue
				}
			}
			more, err := io.ReadAll(file)
			if !assert.NoError(t, err) {
				return
			}
			now := time.Now()
			rest = append(rest, more...)
			for {
				text, after, whole := bytes.Cut(rest, []byte("\n"))
				if !whole {
					break
				}
				rest = after
				if _, id, found := bytes.Cut(text, mark); found {
					client, call, _ := parse(prefix + string(id[:bytes.IndexByte(id, '"')]))
					if key := fmt.Sprintf("%s/%d", client, call); seen[key].IsZero() {
						seen[key] = now
					}
				}
			}
			rest = bytes.Clone(rest)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return func() map[string]time.Time {
		cancel()
		<-ended
		return seen
	}
}

// percentile returns one of sorted durations.
func percentile(sorted []time.Duration, percent int) time.Duration {
	return sorted[(len(sorted)-1)*percent/100].Round(10 * time.Microsecond)
}
