package reports

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// A disk that is full refuses reports, says so everywhere, and keeps no check away. What was acknowledged is delivered when space
// returns, without anybody's help.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spool, file bool // what is on the disk
	}{
		"the spool's":          {spool: true},
		"the sink's":           {file: true},
		"that of both at once": {spool: true, file: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			phase := duration(t, loadEnv, 2*time.Second)
			const perSecond = 8 << 20 // more than the load makes
			disk, ample := smallDisk(t, 32<<20+perSecond*int(phase.Seconds())), t.TempDir()
			place := func(small bool) string {
				if small {
					return disk
				}
				return ample
			}
			path := filepath.Join(place(c.file), "out", "records.jsonl")
			spool := filepath.Join(place(c.spool), "spool")
			s := startServer(t, fmt.Sprintf(`
reports:
  directory: %q
  sinks:
    records:
      file: {path: %q}
      batch: {wait: 20ms, max_backoff: 200ms}
`, spool, path))
			audit, checks := s.audit(t, "records"), s.check(t)
			health := healthpb.NewHealthClient(s.connect(t))
			reportHealth := func() healthpb.HealthCheckResponse_ServingStatus {
				reply, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "logentry.HandleLogEntryService"})
				require.NoError(t, err)
				return reply.Status
			}
			fault := func(class string) float64 {
				return s.mustScrape(t).sum("tollgate_report_queue_fault", "sink=records", "class="+class)
			}
			ready := func(path string) (int, string) {
				code, body, err := s.get(path)
				require.NoError(t, err)
				return code, body
			}
			l := s.report(t, workload{name: "pressing", clients: 4, entries: 20, bytes: 100, pause: 10 * time.Millisecond})
			s.await(t, "the first delivery", func() bool { return s.mustScrape(t).accounts("records").delivered > 0 })

			free := stuff(t, disk)
			if c.spool {
				// Each by itself: what is delivered meanwhile makes room for a moment.
				s.await(t, "/readyz/reports to say that the disk is full", func() bool {
					code, body := ready("/readyz/reports")
					return code == http.StatusServiceUnavailable && strings.Contains(body, "reports.sinks.records: spool "+spool) &&
						strings.Contains(body, "disk_full") && strings.Contains(body, "no space left on device; free space on the volume")
				})
				s.await(t, "the metric of the fault", func() bool { return fault("disk_full") == 1 })
				s.await(t, "the health of reports to say so", func() bool { return reportHealth() == healthpb.HealthCheckResponse_NOT_SERVING })
				s.await(t, "a refusal", func() bool { return l.refusals.Load() > 0 })
			}
			if c.file && !c.spool {
				s.await(t, "deliveries to fail", func() bool {
					metrics := s.mustScrape(t)
					return metrics.sum("tollgate_report_deliveries_total", "sink=records", "result=failed") >= 2 && metrics.accounts("records").pending > 0
				})
				before := l.acked.Load()
				s.await(t, "the spool to take over", func() bool { return l.acked.Load() > before })
				code, body := ready("/readyz/reports")
				assert.Equal(t, http.StatusOK, code, body)
			}
			code, body := ready("/readyz")
			assert.Equal(t, http.StatusOK, code, body)
			time.Sleep(phase)
			behind := s.mustScrape(t).accounts("records")

			free()
			s.await(t, "the fault to end", func() bool {
				code, _ := ready("/readyz/reports")
				return code == http.StatusOK && fault("disk_full") == 0
			})
			s.await(t, "the health of reports to be well", func() bool { return reportHealth() == healthpb.HealthCheckResponse_SERVING })
			before := l.acked.Load()
			s.await(t, "calls to be accepted again", func() bool { return l.acked.Load() > before })
			l.end()
			account := s.awaitDelivered(t, "records")
			assert.Zero(t, account.dropped+account.deadLettered+account.filtered, account)
			balanced, checked := audit.end(t), checks.end(t)
			s.terminate(t)
			result := compareAll(t, path, l)
			assert.Zero(t, result.unknown, "every call was answered")
			if code, message := l.refusal(); c.spool {
				assert.Equal(t, codes.Unavailable, code)
				assert.Equal(t, "the report could not be accepted: disk_full", message)
			} else {
				assert.Zero(t, result.refused, message)
			}
			t.Logf("%.0f records pending while the disk was full; %s; %s; %s", behind.pending, result, balanced, checked)
		})
	}
}

// smallDisk mounts a small file system, which takes root.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	directory := t.TempDir()
	if runtime.GOOS == "linux" && os.Getuid() == 0 {
		output, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", bytes), "tmpfs", directory).CombinedOutput()
		if err == nil {
			t.Cleanup(func() { assert.NoError(t, exec.Command("umount", directory).Run()) })
			return directory
		}
		t.Logf("mount: %s", output)
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("cannot mount a tmpfs")
	}
	t.Skip("cannot mount a tmpfs, which takes root and CAP_SYS_ADMIN; the spool's TestFailedGroup has the same with an injected fault")
	return ""
}

// stuff fills a disk and keeps it full, whatever others let go of, until all of that is freed.
func stuff(t *testing.T, directory string) (free func()) {
	t.Helper()
	file, err := os.Create(filepath.Join(directory, "stuffing"))
	require.NoError(t, err)
	enough, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		chunk := make([]byte, 1<<20)
		for {
			_, err := file.Write(chunk)
			if err != nil {
				if !assert.ErrorIs(t, err, syscall.ENOSPC) {
					return
				}
				chunk = chunk[:max(len(chunk)/2, os.Getpagesize())]
			}
			select {
			case <-enough:
				return
			default:
			}
			if err != nil && len(chunk) == os.Getpagesize() {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	freed := false
	free = func() {
		if freed {
			return
		}
		freed = true
		close(enough)
		<-ended
		assert.NoError(t, file.Close())
		assert.NoError(t, os.Remove(file.Name()))
	}
	t.Cleanup(free)
	return free
}
