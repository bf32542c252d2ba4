package kubernetes

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// drain is how long a replica serves on after SIGTERM, as in the base.
const drain = 35 * time.Second

// TestRollingRestart replaces three replicas one after the other while Mixers of three releases ask them under their service's name: as a
// StatefulSet does, whose pods leave their spools to their successors and not their addresses, but without the pause of minReadySeconds. Nothing of
// it may be seen: no check fails or is decided wrongly, and every report that was acknowledged is delivered once, to a sink that was there and to one
// that was away all the while.
//
// It takes three times the drain, because what a replica waits for is that its callers look its name up again. Mixer's gRPC does when it loses a
// connection, and not within 30 seconds of the last time; nothing makes it look sooner. So there are two cases: connections that live long, where
// the end of a replica is what makes callers look; and connections that are lost all the time, where callers look every 30 seconds and not when a
// replica ends.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	for name, age := range map[string]string{"connections as in the base": "30m", "connections of five seconds": "5s"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			restartUnderLoad(t, age)
		})
	}
}

func restartUnderLoad(t *testing.T, age string) {
	away := "127.0.0.1:" + freePort(t)
	names := startNameServer(t)
	replicas := startReplicas(t, names, fmt.Sprintf(`
evaluation_timeout: 30s # a busy machine may need more than the default; the callers' timeout is shorter
shutdown: {drain: %s, timeout: 30s}
connections: {max_age: %s}
reports:
  directory: SPOOL
  default_sinks: [there, away]
  flush: 1s
  sinks:
    there: {file: {path: SPOOL/records.jsonl}}
    away: {http: {url: "http://%s/"}, batch: {max_backoff: 1s}}
`, drain, age, away))
	l := newLoad(t, names, replicas[0].port)
	l.run(t, func() {
		for i, replica := range replicas {
			replica.replace(t, names, fmt.Sprintf("127.0.0.%d", 4+i))
		}
	})
	l.assertUnnoticed(t)

	// What the replicas still have goes to the sink that comes back.
	sink := startSink(t, away)
	var there, delivered map[string][]string
	await(t, "everything to be delivered", func() error {
		there = map[string][]string{}
		for _, replica := range replicas {
			readRecords(t, filepath.Join(replica.spool, "records.jsonl"), there)
		}
		delivered = sink.received()
		if len(there) < len(l.acknowledged) || len(delivered) < len(l.acknowledged) {
			return fmt.Errorf("%d acknowledged, %d in the files, %d at the sink that was away", len(l.acknowledged), len(there), len(delivered))
		}
		return nil
	})
	assertDelivered(t, l.acknowledged, there)
	assertDelivered(t, l.acknowledged, delivered)
	// But for the last, whose callers have lost no connection since.
	for _, replica := range replicas[:2] {
		assert.Positive(t, asked(t, replica.Tollgate), "%s was never asked", replica.address)
	}
}

// replica is one pod of a StatefulSet: a directory that outlives it, an address and a process that do not.
type replica struct {
	*mesh.Tollgate
	address, port, spool, settings string
}

// startReplicas starts three on one port. SPOOL in the settings stands for the directory of each.
func startReplicas(t *testing.T, names *nameServer, settings string) (all []*replica) {
	t.Helper()
	port := freePort(t)
	for i := range 3 {
		spool := t.TempDir()
		r := &replica{port: port, spool: spool, settings: strings.ReplaceAll(settings, "SPOOL", spool)}
		r.start(t, names, fmt.Sprintf("127.0.0.%d", 1+i))
		all = append(all, r)
	}
	return all
}

// start starts the process, which enters DNS when it is ready.
func (r *replica) start(t *testing.T, names *nameServer, address string) {
	t.Helper()
	r.address = address
	r.Tollgate = meshtest.Tollgate(t, mesh.TollgateOptions{Addr: net.JoinHostPort(address, r.port), Settings: r.settings})
	names.add(address)
}

// replace does what Kubernetes does: the pod leaves DNS when it is told to end, and when it has ended its successor starts.
func (r *replica) replace(t *testing.T, names *nameServer, successor string) {
	t.Helper()
	names.remove(r.address)
	ctx, cancel := context.WithTimeout(t.Context(), drain+patience)
	defer cancel()
	begun := time.Now()
	require.NoError(t, r.Stop(ctx), "an orderly end")
	ended := time.Now()
	former := r.address
	assert.Len(t, r.Log.Lines(0, "records are left for the next start", `"sink":"away"`), 1, "with an emptyDir they would be lost")
	r.start(t, names, successor)
	t.Logf("%s ended %v after SIGTERM, and %s was ready %v later", former, ended.Sub(begun).Round(time.Millisecond), r.address, time.Since(ended).Round(time.Millisecond))
}

// load is what proxies do to Mixers.
type load struct {
	mixers []*mesh.Mixer

	mu           sync.Mutex
	checks       int
	reports      int
	problems     []string
	acknowledged map[string]bool // by the path of the request that was reported
}

// The pauses keep two cores less than busy.
const (
	checkers     = 4
	checkPause   = 20 * time.Millisecond
	reportPause  = 50 * time.Millisecond
	reportedOnce = 5
)

func newLoad(t *testing.T, names *nameServer, port string) *load {
	t.Helper()
	address := fmt.Sprintf("dns://%s/%s", names.addr, net.JoinHostPort(serviceName, port))
	l := &load{acknowledged: map[string]bool{}}
	for _, version := range mesh.Versions {
		l.mixers = append(l.mixers, meshtest.Mixer(t, version, mesh.MixerOptions{Resources: map[string]string{
			"tollgate": read(t, "operatorconfig/tollgate.yaml"),
			"rolling":  strings.ReplaceAll(read(t, "test/kubernetes/testdata/rolling.yaml"), "ADDRESS", address),
		}}))
	}
	return l
}

// run puts the load on for as long as during takes.
func (l *load) run(t *testing.T, during func()) {
	t.Helper()
	done := make(chan struct{})
	var callers sync.WaitGroup
	again := func(pause time.Duration) bool {
		select {
		case <-done:
			return false
		case <-time.After(pause):
			return true
		}
	}
	for _, mixer := range l.mixers {
		for caller := range checkers {
			callers.Go(func() {
				for n := caller; again(checkPause); n++ {
					l.check(t, mixer, n%2 == 0)
				}
			})
		}
		callers.Go(func() {
			for n := 0; again(reportPause); n++ {
				l.report(t, mixer, n)
			}
		})
	}
	defer callers.Wait()
	defer close(done)
	during()
}

func (l *load) check(t *testing.T, mixer *mesh.Mixer, right bool) {
	t.Helper()
	key, want := "wrong", denied
	if right {
		key, want = "abc", allowed
	}
	// A call that is under way when the load ends is awaited.
	v, err := mixer.Check(context.WithoutCancel(t.Context()), mesh.Attributes{
		"context.reporter.kind": "inbound", "destination.namespace": "default", "request.headers": map[string]string{"x-custom-token": key},
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checks++
	if err != nil {
		l.problem("a check through Mixer %s failed: %v", mixer.Version, err)
	} else if got := (answer{v.Code, v.ValidFor, v.ValidUses}); got != want {
		l.problem("a check through Mixer %s with the token %q: %v %s", mixer.Version, key, got, v.Message)
	}
}

func (l *load) report(t *testing.T, mixer *mesh.Mixer, n int) {
	t.Helper()
	var paths []string
	var records []mesh.Attributes
	for i := range reportedOnce {
		path := fmt.Sprintf("/%s/%d/%d", mixer.Version, n, i)
		paths = append(paths, path)
		records = append(records, mesh.Attributes{"context.reporter.kind": "inbound", "destination.namespace": "default", "request.path": path})
	}
	err := mixer.Report(context.WithoutCancel(t.Context()), records...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reports++
	if err != nil {
		l.problem("a report through Mixer %s failed: %v", mixer.Version, err)
		return
	}
	for _, path := range paths {
		l.acknowledged[path] = true
	}
}

// problem notes one; mu is held.
func (l *load) problem(format string, arguments ...any) {
	l.problems = append(l.problems, time.Now().Format(time.StampMilli)+" "+fmt.Sprintf(format, arguments...))
}

func (l *load) assertUnnoticed(t *testing.T) {
	t.Helper()
	t.Logf("%d checks and %d reports, of which %d checks and reports failed or were decided wrongly", l.checks, l.reports, len(l.problems))
	assert.Empty(t, l.problems[:min(len(l.problems), 20)], "%d in all", len(l.problems))
	assert.Greater(t, l.checks, 1000)
	assert.Greater(t, l.reports, 100)
}

// assertDelivered wants every acknowledged record once, under an id that no other record has.
func assertDelivered(t *testing.T, acknowledged map[string]bool, delivered map[string][]string) {
	t.Helper()
	of := map[string]string{}
	lost, twice, shared := 0, 0, 0
	for path := range acknowledged {
		if len(delivered[path]) == 0 {
			lost++
		}
	}
	for path, ids := range delivered {
		if len(ids) > 1 {
			twice++
		}
		for _, id := range ids {
			if other, known := of[id]; known && other != path {
				shared++
			}
			of[id] = path
		}
	}
	t.Logf("%d records acknowledged, %d delivered", len(acknowledged), len(delivered))
	assert.Zero(t, lost, "acknowledged and not delivered")
	assert.Zero(t, twice, "delivered more than once")
	assert.Zero(t, shared, "one id for several records")
}

// readRecords adds the ids of a file's records to what was delivered, by path.
func readRecords(t *testing.T, file string, delivered map[string][]string) {
	t.Helper()
	content, err := os.Open(file)
	require.NoError(t, err)
	defer content.Close()
	_ = parseRecords(content, delivered) // the last line may be half written
}

func parseRecords(lines io.Reader, delivered map[string][]string) error {
	scanner := bufio.NewScanner(lines)
	for scanner.Scan() {
		var record struct {
			ID        string
			Variables struct{ Path string }
		}
		if err := json.Unmarshal(scanner.Bytes(), &record); err != nil {
			return err
		}
		delivered[record.Variables.Path] = append(delivered[record.Variables.Path], record.ID)
	}
	return scanner.Err()
}

// sink takes records over HTTP.
type sink struct {
	mu        sync.Mutex
	delivered map[string][]string
}

func startSink(t *testing.T, address string) *sink {
	t.Helper()
	var listen net.ListenConfig
	listener, err := listen.Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	s := &sink{delivered: map[string][]string{}}
	server := httptest.NewUnstartedServer(s)
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return s
}

// ServeHTTP takes one batch, all of it or nothing.
func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	batch := map[string][]string{}
	body, err := gzip.NewReader(r.Body)
	if err == nil {
		err = parseRecords(body, batch)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, ids := range batch {
		s.delivered[path] = append(s.delivered[path], ids...)
	}
}

// received returns what came so far.
func (s *sink) received() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string][]string, len(s.delivered))
	for path, ids := range s.delivered {
		all[path] = append([]string(nil), ids...)
	}
	return all
}

// await polls until there is no error.
func await(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, mesh.WaitFor(ctx, what, func(context.Context) error { return check() }))
}
