package policy_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// fakeCheck is a check that does what a test says.
type fakeCheck struct {
	name     string
	cost     policy.Cost
	evaluate func(ctx context.Context, request *policy.Request) policy.Verdict
}

func (c fakeCheck) Name() string { return c.name }

func (c fakeCheck) Cost() policy.Cost { return c.cost }

func (c fakeCheck) Evaluate(ctx context.Context, request *policy.Request) policy.Verdict {
	return c.evaluate(ctx, request)
}

// gives makes a check with a fixed verdict.
func gives(name string, cost policy.Cost, verdict policy.Verdict) policy.Check {
	return fakeCheck{name, cost, func(context.Context, *policy.Request) policy.Verdict { return verdict }}
}

// does makes a check that runs a function and then passes.
func does(name string, cost policy.Cost, action func(ctx context.Context)) policy.Check {
	return fakeCheck{name, cost, func(ctx context.Context, _ *policy.Request) policy.Verdict {
		action(ctx)
		return policy.Pass("done")
	}}
}

// fakeKind is a kind whose checks and problems are given.
type fakeKind struct {
	checks   []policy.Check
	problems config.Problems
}

func (k fakeKind) Compile(*config.Handler) ([]policy.Check, config.Problems) {
	return k.checks, k.problems
}

// handler is a handler configuration as config.Parse makes them, all closed. It names one check.
func handler() *config.Handler {
	return &config.Handler{
		Name:        "test",
		Fingerprint: "0123456789ab",
		Headers:     make([]config.HeaderCheck, 1),
		Allow:       config.Lifetime{Duration: 5 * time.Second, Uses: 10_000},
		Denial:      config.Denial{Code: config.Unauthenticated, Message: "who are you", HTTP: &config.HTTPResponse{Status: 401}},
	}
}

// naming returns the handler with the given number of checks.
func naming(h *config.Handler, checks int) *config.Handler {
	copied := *h
	copied.Headers = make([]config.HeaderCheck, checks)
	return &copied
}

// compile makes a policy of the checks, with room at the gate and time enough.
func compile(h *config.Handler, checks ...policy.Check) *policy.Policy {
	c := policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: checks}}, Timeout: time.Minute, Gate: policy.NewGate(8, 0)}
	return c.Compile(naming(h, len(checks)), nil)
}

// allOpen are modes in which every class that can be open is.
func allOpen() config.Modes {
	var modes config.Modes
	for _, class := range config.FailureClasses() {
		modes = modes.With(class, config.Open)
	}
	return modes
}

// readTable returns the rows of a Markdown file's table, by the columns' names.
func readTable(t *testing.T, path string) []map[string]string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	var (
		columns []string
		rows    []map[string]string
	)
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|-") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if columns == nil {
			columns = cells
			continue
		}
		require.Len(t, cells, len(columns), line)
		row := map[string]string{}
		for i, cell := range cells {
			row[columns[i]] = cell
		}
		rows = append(rows, row)
	}
	require.NotEmpty(t, rows, path)
	return rows
}
