package servers

import (
	"bytes"
	"fmt"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Accounts are those of one of Tollgate's sinks, in records, as /metrics said at one moment.
type Accounts struct {
	Accepted, Recovered, Delivered, Filtered, DeadLettered, Dropped, Pending float64
	// Oldest is the age of the oldest pending record, in seconds.
	Oldest float64
}

// Balance reports whether every record that was taken is accounted for.
func (a *Accounts) Balance() bool {
	return a.Accepted+a.Recovered == a.Delivered+a.Filtered+a.DeadLettered+a.Dropped+a.Pending
}

// String returns the equation.
func (a *Accounts) String() string {
	return fmt.Sprintf("accepted %.0f + recovered %.0f = delivered %.0f + filtered %.0f + dead-lettered %.0f + dropped %.0f + pending %.0f",
		a.Accepted, a.Recovered, a.Delivered, a.Filtered, a.DeadLettered, a.Dropped, a.Pending)
}

// Metrics is what /metrics said at one moment.
type Metrics map[string]*dto.MetricFamily

// Metrics asks a Tollgate for its metrics.
func (s *Server) Metrics(t *testing.T) (Metrics, error) {
	t.Helper()
	body, err := s.Get(t, "/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(bytes.NewReader(body))
}

// Sum returns the sum of a metric's values over all its labels, of counters and gauges; 0 where there is none.
func (m Metrics) Sum(name string) (sum float64) {
	for _, metric := range m[name].GetMetric() {
		sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
	}
	return sum
}

// Accounts returns the accounts of all sinks of a Tollgate, by their names.
func (s *Server) Accounts(t *testing.T) (map[string]*Accounts, error) {
	t.Helper()
	metrics, err := s.Metrics(t)
	return metrics.Accounts(), err
}

// Accounts returns the accounts of all sinks, by their names.
func (m Metrics) Accounts() map[string]*Accounts {
	all := map[string]*Accounts{}
	for metric, field := range map[string]func(*Accounts) *float64{
		"accepted_total":      func(a *Accounts) *float64 { return &a.Accepted },
		"recovered_total":     func(a *Accounts) *float64 { return &a.Recovered },
		"delivered_total":     func(a *Accounts) *float64 { return &a.Delivered },
		"filtered_total":      func(a *Accounts) *float64 { return &a.Filtered },
		"dead_lettered_total": func(a *Accounts) *float64 { return &a.DeadLettered },
		"dropped_total":       func(a *Accounts) *float64 { return &a.Dropped },
		"pending":             func(a *Accounts) *float64 { return &a.Pending },
		"oldest_seconds":      func(a *Accounts) *float64 { return &a.Oldest },
	} {
		for _, m := range m["tollgate_report_"+metric].GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() != "sink" {
					continue
				}
				if all[label.GetValue()] == nil {
					all[label.GetValue()] = &Accounts{}
				}
				*field(all[label.GetValue()]) += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return all
}
