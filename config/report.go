package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// Report says what becomes of the records that are reported to a handler.
type Report struct {
	// Sinks are the names of those that get each record; none for the settings' default sinks.
	Sinks []string
	// SampleOneIn is of how many log entries one is kept; 0 and 1 for all.
	SampleOneIn int64
	// Only, Drop and Mask are patterns of the names of values, as docs/records.md explains.
	Only, Drop, Mask []string
	// HideAll means that it is not known which values are to be hidden, so that all are masked.
	HideAll bool
	// Severities give texts a meaning.
	Severities []SeverityRule
	// Metrics say what metric instances are.
	Metrics []MetricRule
}

// SeverityRule gives the text of a log entry's severity a meaning.
type SeverityRule struct {
	// Text is compared without regard to case.
	Text string
	// Severity is numbered as in OpenTelemetry.
	Severity int32
}

// MetricKind says what becomes of the values of a metric instance.
type MetricKind uint8

// The kinds of metrics.
const (
	// MetricByValue is a counter where the value is an int64, else a histogram.
	MetricByValue MetricKind = iota
	// MetricCounter adds values up.
	MetricCounter
	// MetricGauge keeps the last value.
	MetricGauge
	// MetricHistogram counts values by size.
	MetricHistogram
)

// MetricRule says what a metric instance is.
type MetricRule struct {
	// Instance is its name or its full name.
	Instance string
	// Name is what the metric is called; empty for the instance's name.
	Name string
	// Kind is what becomes of its values.
	Kind MetricKind
	// Unit is in UCUM.
	Unit string
	// Description is for people.
	Description string
	// Bounds are those of a histogram's buckets, ascending; nil for the default.
	Bounds []float64
}

// Recording says which decisions are recorded.
type Recording uint8

// The ways of recording decisions.
const (
	// RecordNone records nothing.
	RecordNone Recording = iota
	// RecordDenials records denials and failures.
	RecordDenials
	// RecordSampled records those, and a sample of allows.
	RecordSampled
	// RecordAll records every decision.
	RecordAll
)

// DecisionLog says which decisions become records.
type DecisionLog struct {
	// Record says which.
	Record Recording
	// SampleOneIn is of how many allows one is recorded, with RecordSampled.
	SampleOneIn int64
	// Sinks are the names of those that get the records; none for the settings' default sinks.
	Sinks []string
	// Drop and Mask are patterns of parts of the input.
	Drop, Mask []string
}

// Bounds of the report and decision_log sections.
const (
	MaxSinks            = 16
	MaxSampleOneIn      = 1_000_000_000
	MaxPatterns         = 256
	MaxPatternBytes     = 256
	MaxSeverities       = 64
	MaxMetrics          = 1000
	MaxMetricNameBytes  = 200
	MaxDescriptionBytes = 1024
	MaxBounds           = 100
)

func report(problems *Problems, params *configpb.Report) Report {
	r := Report{
		Sinks: sinks(problems, "report.sinks", params.GetSinks()),
		Only:  patterns(problems, "report.only", params.GetOnly()),
		Drop:  patterns(problems, "report.drop", params.GetDrop()),
		Mask:  patterns(problems, "report.mask", params.GetMask()),
	}
	if n := params.GetSampleOneIn(); n < 0 || n > MaxSampleOneIn {
		problems.add("report.sample_one_in", "is %d; use 1 to %d, or 0 to keep all", n, MaxSampleOneIn)
	} else {
		r.SampleOneIn = n
	}
	if len(params.GetSeverities()) > MaxSeverities {
		problems.add("report.severities", "has %d entries; use at most %d", len(params.GetSeverities()), MaxSeverities)
	} else {
		r.Severities = severities(problems, params.GetSeverities())
	}
	if len(params.GetMetrics()) > MaxMetrics {
		problems.add("report.metrics", "has %d entries; use at most %d", len(params.GetMetrics()), MaxMetrics)
	} else {
		r.Metrics = metricRules(problems, params.GetMetrics())
	}
	return r
}

// sinks checks names as far as they can be checked without the settings.
func sinks(problems *Problems, field string, names []string) []string {
	if len(names) > MaxSinks {
		problems.add(field, "has %d names; use at most %d", len(names), MaxSinks)
		return nil
	}
	for i, name := range names {
		switch {
		case name == "":
			problems.add(fmt.Sprintf("%s[%d]", field, i), "is empty; name a sink from the adapter's settings")
		case slices.Contains(names[:i], name):
			problems.add(fmt.Sprintf("%s[%d]", field, i), "names %s again; keep one, or every record would go there twice", quote(name))
		}
	}
	return names
}

// CheckPattern says what is wrong with a pattern of names, if anything.
func CheckPattern(pattern string) error {
	switch {
	case pattern == "":
		return errors.New("is empty; write a name, or a part of one with * at its end")
	case len(pattern) > MaxPatternBytes:
		return fmt.Errorf("has %d bytes; use at most %d", len(pattern), MaxPatternBytes)
	case strings.Contains(strings.TrimSuffix(pattern, "*"), "*"):
		return fmt.Errorf("is %s; a * may only stand at the end", quote(pattern))
	}
	return nil
}

func patterns(problems *Problems, field string, list []string) []string {
	if len(list) > MaxPatterns {
		problems.add(field, "has %d patterns; use at most %d", len(list), MaxPatterns)
		return nil
	}
	for i, pattern := range list {
		if err := CheckPattern(pattern); err != nil {
			problems.add(fmt.Sprintf("%s[%d]", field, i), "%s", err)
		}
	}
	return list
}

func severities(problems *Problems, params []*configpb.SeverityRule) []SeverityRule {
	var rules []SeverityRule
	for i, s := range params {
		field := fmt.Sprintf("report.severities[%d]", i)
		if s.GetText() == "" {
			problems.add(field+".text", "is empty; write the severity as the instance has it")
		}
		if s.GetSeverity() == configpb.SeverityRule_SEVERITY_UNSPECIFIED {
			problems.add(field+".severity", "is missing; use TRACE, DEBUG, INFO, WARN, ERROR or FATAL")
		}
		if slices.ContainsFunc(rules, func(r SeverityRule) bool { return strings.EqualFold(r.Text, s.GetText()) }) {
			problems.add(field+".text", "is %s, which an entry before it has; keep one", quote(s.GetText()))
		}
		rules = append(rules, SeverityRule{Text: s.GetText(), Severity: int32(s.GetSeverity())})
	}
	return rules
}

func metricRules(problems *Problems, params []*configpb.MetricRule) []MetricRule {
	var rules []MetricRule
	seen := make(map[string]bool, len(params))
	for i, m := range params {
		field := fmt.Sprintf("report.metrics[%d]", i)
		switch {
		case m.GetInstance() == "":
			problems.add(field+".instance", "is empty; name a metric instance")
		case seen[m.GetInstance()]:
			problems.add(field+".instance", "is %s, which an entry before it has; keep one", quote(m.GetInstance()))
		}
		seen[m.GetInstance()] = true
		if err := checkMetricName(m.GetName()); err != nil {
			problems.add(field+".name", "%s", err)
		}
		if strings.ContainsFunc(m.GetUnit(), func(r rune) bool { return r <= ' ' || r > '~' }) || len(m.GetUnit()) > MaxNameBytes {
			problems.add(field+".unit", "is %s; use a unit in UCUM, such as s or By", quote(m.GetUnit()))
		}
		if len(m.GetDescription()) > MaxDescriptionBytes {
			problems.add(field+".description", "has %d bytes; use at most %d", len(m.GetDescription()), MaxDescriptionBytes)
		}
		rule := MetricRule{Instance: m.GetInstance(), Name: m.GetName(), Unit: m.GetUnit(), Description: m.GetDescription(), Bounds: bounds(problems, field, m)}
		switch m.GetKind() {
		case configpb.MetricRule_COUNTER:
			rule.Kind = MetricCounter
		case configpb.MetricRule_GAUGE:
			rule.Kind = MetricGauge
		case configpb.MetricRule_HISTOGRAM:
			rule.Kind = MetricHistogram
		case configpb.MetricRule_KIND_UNSPECIFIED:
		}
		rules = append(rules, rule)
	}
	return rules
}

// checkMetricName says what is wrong with a metric's name: what neither Prometheus nor OpenTelemetry would take.
func checkMetricName(name string) error {
	if len(name) > MaxMetricNameBytes {
		return fmt.Errorf("has %d bytes; use at most %d", len(name), MaxMetricNameBytes)
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' || r == ':'
		if !letter && (i == 0 || (r < '0' || r > '9') && !strings.ContainsRune("./-", r)) {
			return fmt.Errorf("is %s; begin with a letter and go on with letters, digits, '_', ':', '.', '/' and '-'", quote(name))
		}
	}
	return nil
}

func bounds(problems *Problems, field string, m *configpb.MetricRule) []float64 {
	field += ".bounds"
	list := m.GetBounds()
	switch {
	case len(list) == 0:
		return nil
	case m.GetKind() == configpb.MetricRule_COUNTER, m.GetKind() == configpb.MetricRule_GAUGE:
		problems.add(field, "stands beside kind %s, which has no buckets; use HISTOGRAM or remove it", m.GetKind())
	case len(list) > MaxBounds:
		problems.add(field, "has %d bounds; use at most %d", len(list), MaxBounds)
		return nil
	}
	for i, bound := range list {
		if math.IsNaN(bound) || math.IsInf(bound, 0) || i > 0 && bound <= list[i-1] {
			problems.add(fmt.Sprintf("%s[%d]", field, i), "is %v; write finite bounds, each larger than the one before it", bound)
		}
	}
	return list
}

func decisionLog(problems *Problems, params *configpb.DecisionLog) DecisionLog {
	d := DecisionLog{
		SampleOneIn: params.GetSampleOneIn(),
		Sinks:       sinks(problems, "decision_log.sinks", params.GetSinks()),
		Drop:        patterns(problems, "decision_log.drop", params.GetDrop()),
		Mask:        patterns(problems, "decision_log.mask", params.GetMask()),
	}
	switch params.GetRecord() {
	case configpb.DecisionLog_DENIALS:
		d.Record = RecordDenials
	case configpb.DecisionLog_SAMPLED:
		d.Record = RecordSampled
	case configpb.DecisionLog_ALL:
		d.Record = RecordAll
	case configpb.DecisionLog_OFF, configpb.DecisionLog_RECORD_UNSPECIFIED:
	}
	switch {
	case d.Record == RecordSampled && (d.SampleOneIn < 2 || d.SampleOneIn > MaxSampleOneIn):
		problems.add("decision_log.sample_one_in", "is %d; with SAMPLED use 2 to %d, or record ALL", d.SampleOneIn, MaxSampleOneIn)
	case d.Record != RecordSampled && d.SampleOneIn != 0:
		problems.add("decision_log.sample_one_in", "is %d, which only SAMPLED reads; set record to SAMPLED or remove it", d.SampleOneIn)
	}
	return d
}
