package report_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestPlanOfAHandler(t *testing.T) {
	planner := &report.Planner{Sinks: []string{"main", "audit"}, Default: []string{"main"}}
	metrics := []config.MetricRule{
		{Instance: "a", Name: "b", Kind: config.MetricCounter, Unit: "1", Description: "d"},
		{Instance: "c", Kind: config.MetricGauge},
		{Instance: "e", Kind: config.MetricHistogram, Bounds: []float64{1, 2}},
		{Instance: "f"},
	}
	handler := &config.Handler{Name: "shop", Report: config.Report{
		Sinks: []string{"audit"}, SampleOneIn: 1, Severities: []config.SeverityRule{{Text: "Bad", Severity: 17}}, Metrics: metrics,
	}}
	plan := planner.Plan(handler, nil)
	assert.Empty(t, plan.Problems())
	assert.Equal(t, "shop", plan.Handler())
	for _, kind := range record.Kinds() {
		call, left := plan.Call(kind, []string{"", ""})
		assert.Zero(t, left)
		assert.Equal(t, kind, call.Kind)
		assert.Equal(t, "shop", call.Handler)
		assert.Equal(t, []string{"audit"}, call.Sinks)
		assert.Len(t, call.Instances, 2)
		delivery, err := record.ParseDelivery(call.Delivery)
		require.NoError(t, err)
		switch kind {
		case record.KindLogEntry:
			assert.Equal(t, &record.Delivery{Severities: []record.Severity{{Text: "Bad", Number: record.SeverityError}}}, delivery)
		case record.KindMetric:
			assert.Equal(t, &record.Delivery{Metrics: []record.MetricRule{
				{Instance: "a", Name: "b", Kind: record.MetricCounter, Unit: "1", Description: "d"},
				{Instance: "c", Kind: record.MetricGauge},
				{Instance: "e", Kind: record.MetricHistogram, Bounds: []float64{1, 2}},
				{Instance: "f"},
			}}, delivery)
		case record.KindTraceSpan, record.KindEdge, record.KindNothing, record.KindDecision:
			assert.Nil(t, delivery)
		}
	}
}

func TestPlansWithProblemsGoToTheDefaultSinks(t *testing.T) {
	planner := &report.Planner{Sinks: []string{"main", "audit"}, Default: []string{"main"}}
	found := config.Problems{{Field: "name", Text: "is wrong"}}
	for name, c := range map[string]struct {
		report   config.Report
		problems config.Problems
		want     config.Problems
	}{
		"of the configuration": {config.Report{Sinks: []string{"audit"}}, found, found},
		"a sink there is not": {
			config.Report{Sinks: []string{"audit", "nowhere"}},
			nil,
			config.Problems{{Field: "report.sinks[1]", Text: `is "nowhere", but the adapter's settings have no such sink; they have ["main" "audit"]`}},
		},
		"a pattern that slipped through": {config.Report{Mask: []string{""}}, nil, config.Problems{{Field: "report", Text: "mask[0]: is empty"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c.report.SampleOneIn = 1_000_000_000
			plan := planner.Plan(&config.Handler{Name: "shop", Report: c.report}, c.problems)
			assert.Equal(t, c.want, plan.Problems())
			call, left := plan.Call(record.KindLogEntry, []string{"", "", ""})
			assert.Equal(t, []string{"main"}, call.Sinks)
			assert.Len(t, call.Instances, 3, "nothing is sampled by what is not valid")
			assert.Zero(t, left)
		})
	}
}
