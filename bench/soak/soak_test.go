// Package soak runs Tollgate for long under mixed load, and looks whether it stays as it was.
package soak

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/bench/servers"
)

// The environment says how long the soak is (1m), how many checks (100) and report calls (20) a second there are, and where
// the results go if not into bin/soak and, after an hour or more, docs.
const (
	longEnv    = "TOLLGATE_SOAK"
	checksEnv  = "TOLLGATE_SOAK_CHECKS"
	reportsEnv = "TOLLGATE_SOAK_REPORTS"
	outEnv     = "TOLLGATE_SOAK_OUT"
)

const (
	interval        = time.Second // between samples
	visitsPerSecond = 2           // connections that come and go
	warmUp          = 5 * time.Second
	patience        = 2 * time.Minute // for what has to be delivered or to end

	growth = 1.1 // how much more memory the last third of the time may need than the second
	strays = 5   // goroutines more or less than before
	// judged is how long a soak has to be for its memory to be judged: in a shorter one the heap is still finding its size.
	judged = 20 * time.Minute
	whole  = time.Hour // a soak whose results are for others to read
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soak is a run.
type soak struct {
	tollgate  *servers.Server
	collector *servers.Keeping
	webhook   *webhook
	callers   *callers

	directory    string
	rotations    []*rotation
	certificates *certificates

	began   time.Time
	samples []sample
	away    map[string]bool // sinks
	outages int
	last    servers.Metrics
	stalls  stalls
}

// Checks of all kinds, reports of all templates, connections, handlers, secrets, lists, keys and certificates that come and go, and sinks that
// go away: nothing is answered wrong, fails or is lost, and memory and goroutines are at the end what they were.
func TestSoak(t *testing.T) {
	long := lasting(t, longEnv, time.Minute)
	checksPerSecond, reportsPerSecond := count(t, checksEnv, 100), count(t, reportsEnv, 20)
	s := newSoak(t)

	// What the first calls begin stays: buffers, the sinks' connections.
	s.load(t, warmUp, checksPerSecond, reportsPerSecond, nil)
	s.delivered(t)
	baseline := s.idle(t, 0)

	s.began = time.Now()
	processor, ours := s.tollgate.CPU(t), usage(t)
	s.load(t, long, checksPerSecond, reportsPerSecond, func() { s.disturb(t, long) })
	processor, ours = s.tollgate.CPU(t)-processor, usage(t)-ours
	elapsed := time.Since(s.began)
	s.delivered(t)
	after := s.idle(t, baseline)

	r := &results{
		long: long, checksPerSecond: checksPerSecond, reportsPerSecond: reportsPerSecond,
		baseline: baseline, after: after, second: third(s.samples, 1), last: third(s.samples, 2),
		tollgate: processor.Seconds() / elapsed.Seconds(), generator: ours.Seconds() / elapsed.Seconds(),
		lost: map[string]int{},
	}
	for sink, f := range s.found(t) {
		r.lost[sink] = s.callers.reported.verify(t, sink, f)
	}
	s.verify(t)
	assert.InDelta(t, baseline, after, strays, "goroutines")
	t.Logf("RSS of the last third against the second: %.1f and %.1f MiB (%.3f)", r.last, r.second, r.last/r.second)
	if long >= judged {
		assert.LessOrEqual(t, r.last, growth*r.second, "memory grows")
	}
	s.write(t, r)
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{directory: t.TempDir(), certificates: newCertificates(t), away: map[string]bool{}}
	secrets := t.TempDir()
	token := newRotation(t, "token", lineFile(filepath.Join(secrets, "token")))
	key := newRotation(t, "key", lineFile(filepath.Join(secrets, "key")))
	caller := newRotation(t, "caller", lineFile(filepath.Join(secrets, "caller")))
	listed := newRotation(t, "listed", lineFile(s.file("listed.txt")))
	signer := newRotation(t, "signer", keyFile(s.file("keys.json")))
	s.rotations = []*rotation{token, key, caller, listed, signer}
	s.collector, s.webhook = servers.KeepingCollector(t), newWebhook(t)
	s.tollgate = servers.Tollgate(t, fmt.Sprintf(`
tls: {cert: %q, key: %q, client_ca: %q, client_names: [%q]}
callers: {mixer: {bearer: caller}}
connections: {max_age: 20s, max_age_grace: 10s}
evaluation_timeout: 4s
secrets: {directory: %q}
lists: {listed: {file: %q}}
key_sets: {idp: {file: %q, min_refresh: 1s}}
limits: {handlers: {entries: 64}}
reports:
  directory: %q
  default_sinks: [file]
  sinks:
    file: {file: {path: %q, megabytes: 50}}
    collector: {otlp: {endpoint: %q}, batch: {max_backoff: 2s}}
    webhook: {http: {url: %q}, batch: {max_backoff: 2s, timeout: 3s}}
    decisions: {file: {path: %q, megabytes: 50}}
`, s.certificates.file("tls.crt"), s.certificates.file("tls.key"), s.certificates.file("ca.crt"), spiffeID, secrets, s.file("listed.txt"), s.file("keys.json"),
		s.file("spool"), s.file("records.jsonl"), s.collector.Address, s.webhook.URL, s.file("decisions.jsonl")))
	s.callers = &callers{address: s.tollgate.Address, certificates: s.certificates, bearer: caller, questions: newQuestions(token, key, listed, signer).all()}
	return s
}

func (s *soak) file(name string) string { return filepath.Join(s.directory, name) }

// load calls as long as said, while something else is done, or nothing.
func (s *soak) load(t *testing.T, long time.Duration, checksPerSecond, reportsPerSecond int, meanwhile func()) {
	t.Helper()
	s.callers.begin(t)
	defer s.callers.end()
	ctx, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { s.stalls.watch(ctx) })
	all.Go(func() { paced(ctx, checksPerSecond, s.callers.check) })
	all.Go(func() { paced(ctx, reportsPerSecond, s.callers.report) })
	all.Go(func() { paced(ctx, visitsPerSecond, s.callers.visit) })
	if meanwhile == nil {
		return
	}
	for _, r := range s.rotations {
		all.Go(func() { assert.NoError(t, r.run(ctx)) })
	}
	all.Go(func() { assert.NoError(t, s.certificates.run(ctx)) })
	defer stop()
	meanwhile()
}

// disturb takes sinks away and brings them back, and takes a sample every second. A cycle is a ninth of the time, five minutes at the
// most: a quarter with everything there, one without the Collector, one with everything again, and one without the web server.
func (s *soak) disturb(t *testing.T, long time.Duration) {
	t.Helper()
	cycle := min(long/9, 5*time.Minute)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for ; time.Since(s.began) < long; <-ticker.C {
		s.sample(t)
		at := time.Since(s.began)
		quarter := at % cycle * 4 / cycle
		switch missing := s.away["collector"]; {
		case quarter == 1 && !missing:
			s.collector.Kill(t)
			s.away["collector"] = true
			s.outages++
		case quarter != 1 && missing:
			s.collector.Start(t)
			s.away["collector"] = false
		}
		switch missing := s.away["webhook"]; {
		case quarter == 3 && !missing:
			s.webhook.fault.Store(refuses + int32(at/cycle%3))
			s.away["webhook"] = true
			s.outages++
		case quarter != 3 && missing:
			s.webhook.fault.Store(healthy)
			s.away["webhook"] = false
		}
	}
	if s.away["collector"] {
		s.collector.Start(t)
	}
	s.webhook.fault.Store(healthy)
}

// sample looks. All accounts must balance.
func (s *soak) sample(t *testing.T) {
	t.Helper()
	metrics, err := s.tollgate.Metrics(t)
	require.NoError(t, err)
	accounts := metrics.Accounts()
	for sink, a := range accounts {
		require.True(t, a.Balance(), "%s: %s", sink, a)
	}
	now := sample{
		at: time.Since(s.began), resident: float64(s.tollgate.Resident(t)) / (1 << 20),
		goroutines: metrics.Sum("go_goroutines"), files: metrics.Sum("process_open_fds"), connections: metrics.Sum("tollgate_connections"),
		acknowledged:  s.callers.reported.count(),
		deliveredFile: accounts["file"].Delivered, deliveredCollector: accounts["collector"].Delivered, deliveredWebhook: accounts["webhook"].Delivered,
		outage: s.away["collector"] || s.away["webhook"],
	}
	now.checks, now.failed, now.wrong, now.slowest = s.callers.checks.second()
	_, now.reportsFailed, _, _ = s.callers.reports.second()
	for _, a := range accounts {
		now.pending += a.Pending
	}
	s.samples, s.last = append(s.samples, now), metrics
}

// delivered waits until nothing waits for a sink.
func (s *soak) delivered(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(interval / 10) {
		metrics, err := s.tollgate.Metrics(t)
		require.NoError(t, err)
		s.last = metrics
		if metrics.Sum("tollgate_report_pending")+metrics.Sum("tollgate_decision_log_waiting") == 0 {
			return
		}
		require.True(t, time.Now().Before(end), "not all is delivered: %v", metrics.Accounts())
	}
}

// idle waits until no caller is connected and there are about as many goroutines as before, or for as long as they may take to end, and
// returns how many there are.
func (s *soak) idle(t *testing.T, before float64) (goroutines float64) {
	t.Helper()
	for end := time.Now().Add(patience / 4); ; time.Sleep(interval) {
		metrics, err := s.tollgate.Metrics(t)
		require.NoError(t, err)
		goroutines = metrics.Sum("go_goroutines")
		settled := metrics.Sum("tollgate_connections") == 0 && (before == 0 || max(goroutines-before, before-goroutines) <= strays)
		if settled || time.Now().After(end) {
			return goroutines
		}
	}
}

// found returns what arrived at the sinks.
func (s *soak) found(t *testing.T) map[string]*found {
	t.Helper()
	files, err := filepath.Glob(s.file("records*.jsonl"))
	require.NoError(t, err)
	file, collector := &found{}, &found{}
	file.files(t, files)
	collector.files(t, s.collector.Files())
	return map[string]*found{"file": file, "collector": collector, "webhook": &s.webhook.found}
}

// verify compares what was answered with what had to be, and the accounts with what was sent.
func (s *soak) verify(t *testing.T) {
	t.Helper()
	_, failed, wrong, _ := s.callers.checks.second()
	assert.Equal(t, s.callers.checks.excused(&s.stalls), failed, "checks failed: %s", strings.Join(s.callers.checks.mistakes, "\n"))
	assert.Zero(t, wrong, "checks were answered wrong: %s", strings.Join(s.callers.checks.mistakes, "\n"))
	_, refused, _, _ := s.callers.reports.second()
	excused := s.callers.reports.excused(&s.stalls)
	assert.Equal(t, excused, refused, "reports were refused: %s", strings.Join(s.callers.reports.mistakes, "\n"))
	for sink, a := range s.last.Accounts() {
		t.Logf("%s: %s", sink, a)
		assert.Zero(t, a.DeadLettered+a.Dropped+a.Filtered+a.Recovered, sink)
		if sink != "decisions" {
			// A call whose answer came too late was accepted and not acknowledged.
			unsure := float64(excused * perCall)
			assert.InDelta(t, float64(s.callers.reported.count())+unsure/2, a.Accepted, unsure/2, sink)
		}
	}
	assert.InDelta(t, s.last.Sum("tollgate_decision_log_recorded_total"), s.last.Accounts()["decisions"].Delivered, 0, "decisions")
	assert.Zero(t, s.last.Sum("tollgate_decision_log_dropped_total"), "decisions")
	for _, r := range s.rotations {
		t.Logf("%s was replaced %d times", r.name, r.count())
	}
	t.Logf("the certificate was replaced %d times; %d outages; %.0f handlers compiled", s.certificates.count(), s.outages, s.last.Sum("tollgate_handlers_compiled_total"))
}

// write writes the samples into bin/soak, and the plot and the page there or where they are for others to read.
func (s *soak) write(t *testing.T, r *results) {
	t.Helper()
	samples := filepath.Join("..", "..", "bin", "soak")
	page := samples
	if r.long >= whole {
		page = filepath.Join("..", "..", "docs")
	}
	if out := os.Getenv(outEnv); out != "" {
		samples, page = out, out
	}
	for file, content := range map[string]func(*os.File) error{
		filepath.Join(samples, "soak.csv"): func(f *os.File) error { return writeCSV(f, s.samples) },
		filepath.Join(page, "soak.svg"):    func(f *os.File) error { return plot(f, s.samples) },
		filepath.Join(page, "soak.md"):     func(f *os.File) error { return s.page(f, r, !t.Failed()) },
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		f, err := os.Create(file)
		require.NoError(t, err)
		assert.NoError(t, content(f))
		assert.NoError(t, f.Close())
	}
	t.Logf("soak.csv is in %s, soak.svg and soak.md in %s", filepath.Clean(samples), filepath.Clean(page))
}

// usage is the processor time that this process has used.
func usage(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
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

// count reads a number from the environment.
func count(t *testing.T, name string, otherwise int) int {
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
