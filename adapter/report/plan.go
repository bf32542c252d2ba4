package report

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/config"
)

// Planner turns handler configurations into plans.
type Planner struct {
	// Sinks are the names of all sinks.
	Sinks []string
	// Default are the names of those that get the records of handlers which name none, or whose configuration is not valid.
	Default []string
}

// Plan is what becomes of the records that are reported to one handler. It is immutable and used by many calls at once.
type Plan struct {
	handler  string
	problems config.Problems
	sinks    []string
	filter   *record.Filter
	sample   int64
	// The deliveries of log entries, of metrics and of everything else, in wire form.
	logEntries, metrics string
}

// Plan makes the plan of a handler. It never fails: what is reported to a handler with problems goes to the default sinks, with
// all values masked that might have to be hidden.
func (p *Planner) Plan(handler *config.Handler, problems config.Problems) *Plan {
	r := handler.Report
	plan := &Plan{handler: handler.Name, sinks: r.Sinks, problems: slices.Concat(problems, p.missing("report.sinks", r.Sinks))}
	if len(plan.problems) > 0 || len(r.Sinks) == 0 {
		plan.sinks = p.Default
	}
	rules := record.Rules{Only: r.Only, Drop: r.Drop, Mask: r.Mask}
	if r.HideAll {
		rules = record.Rules{Mask: []string{"*"}}
	}
	var err error
	if plan.filter, err = rules.Compile(); err != nil {
		// Configurations are checked by the same rules, so this is a mistake of ours; no value may pay for it.
		plan.problems = append(plan.problems, config.Problem{Field: "report", Text: err.Error()})
		plan.filter, _ = record.Rules{Mask: []string{"*"}}.Compile()
	}
	if len(plan.problems) > 0 {
		return plan
	}
	plan.sample = r.SampleOneIn
	plan.logEntries, plan.metrics = deliveries(r)
	return plan
}

// missing returns a problem for every name that no sink has.
func (p *Planner) missing(field string, names []string) (problems config.Problems) {
	for i, name := range names {
		if name != "" && !slices.Contains(p.Sinks, name) {
			problems = append(problems, config.Problem{
				Field: fmt.Sprintf("%s[%d]", field, i),
				Text:  fmt.Sprintf("is %.100q, but the adapter's settings have no such sink; they have %q", name, p.Sinks),
			})
		}
	}
	return problems
}

func deliveries(r config.Report) (logEntries, metrics string) {
	entries := record.Delivery{}
	if r.SampleOneIn > 1 {
		entries.SampleOneIn = r.SampleOneIn
	}
	for _, s := range r.Severities {
		entries.Severities = append(entries.Severities, record.Severity{Text: s.Text, Number: record.SeverityNumber(s.Severity)})
	}
	rules := record.Delivery{}
	for _, m := range r.Metrics {
		rules.Metrics = append(rules.Metrics, record.MetricRule{
			Instance: m.Instance, Name: m.Name, Kind: metricKind(m.Kind), Unit: m.Unit, Description: m.Description, Bounds: m.Bounds,
		})
	}
	return string(entries.Append(nil)), string(rules.Append(nil))
}

func metricKind(k config.MetricKind) record.MetricKind {
	switch k {
	case config.MetricCounter:
		return record.MetricCounter
	case config.MetricGauge:
		return record.MetricGauge
	case config.MetricHistogram:
		return record.MetricHistogram
	case config.MetricByValue:
	}
	return record.MetricDefault
}

// Handler returns the name of the plan's handler.
func (p *Plan) Handler() string { return p.handler }

// Problems returns why the handler's records go to the default sinks; none where they go where the handler says.
func (p *Plan) Problems() config.Problems { return p.problems }

// Left counts instances of a call that did not become records.
type Left struct {
	// Malformed ones cannot be read: one mistaken expression must not cost the records beside it.
	Malformed int
	// Sampled ones were not picked.
	Sampled int
}

// Call makes the call to accept from the instances that came, in wire form: without those that are malformed or not picked, and
// without the values that are to be hidden. It uses the instances' memory.
func (p *Plan) Call(kind record.Kind, instances []string) (*Call, Left) {
	call := &Call{Kind: kind, Handler: p.handler, Sinks: p.sinks}
	one := int64(1)
	switch kind {
	case record.KindLogEntry:
		call.Delivery, one = p.logEntries, max(p.sample, 1)
	case record.KindMetric:
		call.Delivery = p.metrics
	case record.KindTraceSpan, record.KindEdge, record.KindNothing, record.KindDecision:
	}
	var left Left
	kept := instances[:0]
	for _, instance := range instances {
		switch {
		case one > 1 && rand.Int64N(one) > 0: //nolint:gosec // it picks records, not secrets
			left.Sampled++
		case record.Check(kind, instance) != nil:
			left.Malformed++
		default:
			instance, _ = p.filter.Apply(kind, instance)
			kept = append(kept, instance)
		}
	}
	call.Instances = kept
	return call, left
}
