// Package collector measures Tollgate's reports beside the real OpenTelemetry Collector: the same records, from the same generator, in
// alternation, from gRPC to a file.
package collector

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/bench/servers"
)

// What can be set from outside.
const (
	roundsEnv  = "TOLLGATE_ROUNDS"  // 7
	callsEnv   = "TOLLGATE_CALLS"   // of a round, as fast as answers come: 3000
	secondsEnv = "TOLLGATE_SECONDS" // of a round at a fixed pace: 5
	otherEnv   = "TOLLGATE_OTHER"   // what TestPair compares with TOLLGATE_BIN; without it there is no such comparison
	profileEnv = "TOLLGATE_PROFILE" // where TestProfile writes a CPU profile; without it there is none
)

func TestReports(t *testing.T) {
	rounds, calls, seconds := number(t, roundsEnv, 7), number(t, callsEnv, 3000), number(t, secondsEnv, 5)
	mixer, otlp := encode(t)
	t.Logf("calls of %d records: %d bytes for Tollgate, %d for the Collector", perCall, len(mixer[0]), len(otlp[0]))
	targets := []*target{
		newCollector(t, otlp),
		newTollgate(t, "Tollgate, sync: always", true, "always", true, mixer),
		newTollgate(t, "Tollgate, sync: os", true, "os", true, mixer),
		newTollgate(t, "Tollgate, in memory", false, "always", true, mixer),
		newTollgate(t, "accepting only, sync: always", true, "always", false, mixer),
		newTollgate(t, "accepting only, sync: os", true, "os", false, mixer),
	}
	compare(t, targets, rounds, calls, seconds)
}

// TestPair measures another binary, such as one with a change, beside a Tollgate without it.
func TestPair(t *testing.T) {
	other := os.Getenv(otherEnv)
	if other == "" {
		t.Skip("set " + otherEnv + " to a binary")
	}
	rounds, calls, seconds := number(t, roundsEnv, 7), number(t, callsEnv, 3000), number(t, secondsEnv, 5)
	mixer, _ := encode(t)
	targets := []*target{newTollgate(t, "Tollgate", true, "always", true, mixer)}
	t.Setenv(servers.BinaryEnv, other)
	targets = append(targets, newTollgate(t, "the other", true, "always", true, mixer))
	compare(t, targets, rounds, calls, seconds)
}

// compare measures the targets in both modes.
func compare(t *testing.T, targets []*target, rounds, calls, seconds int) {
	t.Helper()
	for _, target := range targets {
		target.round(t, calls, target.load.flatOut)
	}
	measure(t, fmt.Sprintf("%d calls as fast as answers come, %d at once on %d connections", calls, connections*callersEach, connections),
		targets, rounds, func(g *target) *result { return g.round(t, calls, g.load.flatOut) })
	measure(t, fmt.Sprintf("%d s at %d records/s on %d connections", seconds, pace, connections),
		targets, rounds, func(g *target) *result { return g.round(t, seconds*pace/perCall, g.load.paced) })
}

// measure alternates between the targets, every other round in reverse, and prints what came of it. The first target is the one
// that the others are compared with.
func measure(t *testing.T, title string, targets []*target, rounds int, round func(*target) *result) {
	t.Helper()
	results := make([][]*result, len(targets))
	for n := range rounds {
		for i := range targets {
			if n%2 == 1 {
				i = len(targets) - 1 - i
			}
			results[i] = append(results[i], round(targets[i]))
		}
	}
	ratio := func(target, round int) float64 {
		return float64(results[target][round].perRecord) / float64(results[0][round].perRecord)
	}
	table := tabwriter.NewWriter(t.Output(), 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\n%s; CPU as a ratio to %s, round by round\n", title, targets[0].name)
	for i := 1; i < len(targets); i++ {
		fmt.Fprintf(table, "%s\t", targets[i].name)
		for n := range rounds {
			fmt.Fprintf(table, "%.3f\t", ratio(i, n))
		}
		fmt.Fprintln(table)
	}
	fmt.Fprintln(table, "\nmedians\tCPU ratio\tµs/record\trecords/s\tp50 ms\tp99 ms\tfile B/record\tdisk B/record\t")
	for i, target := range targets {
		of := func(value func(*result) float64) float64 {
			return median(rounds, func(n int) float64 { return value(results[i][n]) })
		}
		milliseconds := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
		fmt.Fprintf(table, "%s\t%.3f\t%.2f\t%.0f\t%.2f\t%.2f\t%.0f\t%.0f\t\n", target.name,
			median(rounds, func(n int) float64 { return ratio(i, n) }),
			of(func(r *result) float64 { return r.perRecord.Seconds() * 1e6 }),
			of(func(r *result) float64 { return r.perSecond }),
			of(func(r *result) float64 { return milliseconds(r.p50) }),
			of(func(r *result) float64 { return milliseconds(r.p99) }),
			of(func(r *result) float64 { return r.file }),
			of(func(r *result) float64 { return r.written }),
		)
	}
	require.NoError(t, table.Flush())
}

// TestProfile writes where a durable Tollgate spends its time, as fast as answers come.
func TestProfile(t *testing.T) {
	path := os.Getenv(profileEnv)
	if path == "" {
		t.Skip("set " + profileEnv + " to the profile's file")
	}
	mixer, _ := encode(t)
	target := newTollgate(t, "Tollgate, sync: always", true, "always", true, mixer)
	calls := number(t, callsEnv, 3000)
	target.round(t, calls, target.load.flatOut)
	const seconds = 20
	taken := make(chan error, 1)
	go func() {
		profile, err := target.server.Get(t, "/debug/pprof/profile?seconds="+strconv.Itoa(seconds))
		if err == nil {
			err = os.WriteFile(path, profile, 0o600)
		}
		taken <- err
	}()
	for end := time.Now().Add(seconds * time.Second); time.Now().Before(end); {
		target.round(t, calls, target.load.flatOut)
	}
	require.NoError(t, <-taken)
}

func median(n int, of func(int) float64) float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = of(i)
	}
	slices.Sort(values)
	return (values[n/2] + values[(n-1)/2]) / 2
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	require.Positive(t, n, name)
	return n
}
