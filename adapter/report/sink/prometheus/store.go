package promsink

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// store is the series of all metrics.
type store struct {
	max        int // series
	idle       time.Duration
	metricsBy  map[string]*metric
	taken      map[string]*metric // by the names of their samples
	count      int                // of series
	overflowed uint64
	expired    time.Time // when series were last looked through
}

// metric is the series of one name. What the first record of the name said it is, it is until it has no series any more.
type metric struct {
	name, help string
	kind       record.MetricKind
	instance   string // that came first
	bounds     []float64
	series     map[string]*series
	// overflow are the labels of the series for what finds none of its own; empty until it is needed.
	overflow string
}

// series is the value of one set of labels.
type series struct {
	desc             *prometheus.Desc
	created, written time.Time
	// value is what a counter or a gauge shows, and a histogram's sum.
	value float64
	// buckets are how many values of a histogram are in each, and none above its bounds last.
	buckets []uint64
	// sequence and index are those of the record that a gauge shows.
	sequence uint64
	index    int
}

func newStore(o Options) store {
	return store{max: o.MaxSeries, idle: o.IdleExpiry, metricsBy: map[string]*metric{}, taken: map[string]*metric{}}
}

// add counts a point, or returns why it never can be.
func (s *store) add(p *point, now time.Time) error {
	m := s.metricsBy[string(p.name)]
	if m == nil {
		var err error
		if m, err = s.define(p); err != nil {
			return err
		}
	}
	if m.kind != p.rule.Kind {
		return fmt.Errorf("metric %q is a %s since instance %.100q reported it, and instance %.100q makes it a %s; give one of them another name",
			m.name, kindName(m.kind), m.instance, p.instance, kindName(p.rule.Kind))
	}
	to := m.series[string(p.labels)]
	if to == nil {
		var err error
		if to, err = s.newSeries(m, p, now); err != nil {
			return err
		}
	}
	to.written = now
	switch m.kind {
	case record.MetricCounter, record.MetricDefault:
		to.value += p.value
	case record.MetricGauge:
		if p.sequence > to.sequence || p.sequence == to.sequence && p.index >= to.index { // batches may pass each other
			to.value, to.sequence, to.index = p.value, p.sequence, p.index
		}
	case record.MetricHistogram:
		to.value += p.value
		at, _ := slices.BinarySearch(m.bounds, p.value)
		to.buckets[at]++
	}
	return nil
}

func kindName(kind record.MetricKind) string {
	switch kind {
	case record.MetricCounter, record.MetricDefault:
		return "counter"
	case record.MetricGauge:
		return "gauge"
	case record.MetricHistogram:
		return "histogram"
	}
	return "unknown"
}

// define makes a metric of the first record of its name.
func (s *store) define(p *point) (*metric, error) {
	m := &metric{
		name: string(p.name), kind: p.rule.Kind, instance: strings.Clone(p.instance), bounds: slices.Clone(p.rule.Bounds),
		help: strings.ToValidUTF8(strings.Clone(p.rule.Description), "\uFFFD"), series: map[string]*series{},
	}
	if m.help == "" {
		m.help = strings.ToValidUTF8(fmt.Sprintf("What Mixer reports as %.200s.", p.instance), "\uFFFD")
	}
	if isReserved(m.name) {
		return nil, fmt.Errorf("metric %q has a name like those of Tollgate's own metrics; give it another name, or set the sink's namespace", m.name)
	}
	if err := checkBounds(m.bounds); err != nil {
		return nil, fmt.Errorf("metric %q: %w", m.name, err)
	}
	for _, name := range m.names() {
		if other := s.taken[name]; other != nil {
			return nil, fmt.Errorf("the %s %q of instance %.100q and the %s %q of instance %.100q would both have samples called %q; give one of them another name",
				kindName(other.kind), other.name, other.instance, kindName(m.kind), m.name, m.instance, name)
		}
	}
	if len(s.metricsBy) >= maxMetrics {
		return nil, fmt.Errorf("metric %q is one too many: at most %d names are kept", m.name, maxMetrics)
	}
	s.metricsBy[m.name] = m
	for _, name := range m.names() {
		s.taken[name] = m
	}
	return m, nil
}

// names returns what the metric's samples are called, and the metric itself.
func (m *metric) names() []string {
	if m.kind == record.MetricHistogram {
		return []string{m.name, m.name + "_bucket", m.name + "_count", m.name + "_sum"}
	}
	return []string{m.name}
}

// checkBounds refuses what a handler's configuration cannot say, but another version's spool might.
func checkBounds(bounds []float64) error {
	if len(bounds) > maxBounds {
		return fmt.Errorf("there are %d bounds; use at most %d", len(bounds), maxBounds)
	}
	for i, bound := range bounds {
		if math.IsNaN(bound) || math.IsInf(bound, 0) || i > 0 && bound <= bounds[i-1] {
			return fmt.Errorf("bound %d is %v; write finite bounds, each larger than the one before it", i, bound)
		}
	}
	return nil
}

var errFull = errors.New("there are as many series as max_series allows, and gauges do not add up; raise it, or drop dimensions with many values")

// newSeries makes the series of a point's labels or, where there are too many, returns the metric's overflow.
func (s *store) newSeries(m *metric, p *point, now time.Time) (*series, error) {
	var key string
	if s.count < s.max {
		key = string(p.labels)
	} else {
		s.overflowed++
		if m.kind == record.MetricGauge {
			return nil, fmt.Errorf("metric %q: %w", m.name, errFull)
		}
		if m.overflow == "" {
			m.overflow = overflowLabels(string(p.labels))
		}
		if one := m.series[m.overflow]; one != nil {
			return one, nil
		}
		key = m.overflow
	}
	one := &series{desc: prometheus.NewDesc(m.name, m.help, nil, constLabels(key)), created: now}
	if m.kind == record.MetricHistogram {
		one.buckets = make([]uint64, len(m.bounds)+1)
	}
	m.series[key] = one
	s.count++
	return one, nil
}

// overflow is the value of all labels of a series for what finds none of its own, and its label where there are no others.
const overflow = "overflow"

func overflowLabels(labels string) string {
	var key []byte
	for name := range eachLabel(labels) {
		key = append(append(key, name...), separator...)
		key = append(append(key, overflow...), separator...)
	}
	if key == nil {
		return overflowLabels(overflow + separator + separator)
	}
	return string(key)
}

func constLabels(key string) prometheus.Labels {
	return maps.Collect(eachLabel(key))
}

// eachLabel reads what appendLabels wrote.
func eachLabel(labels string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for labels != "" {
			var name, value string
			name, labels, _ = strings.Cut(labels, separator)
			value, labels, _ = strings.Cut(labels, separator)
			if !yield(name, value) {
				return
			}
		}
	}
}

// expireSometimes is expire for whoever calls often.
func (s *store) expireSometimes(now time.Time) {
	const fraction = 10 // of the idle time that a series may stay longer
	if now.Sub(s.expired) >= s.idle/fraction {
		s.expire(now)
	}
}

// expire forgets series without a value for so long, and metrics without series.
func (s *store) expire(now time.Time) {
	s.expired = now
	for _, m := range s.metricsBy {
		for key, one := range m.series {
			if now.Sub(one.written) >= s.idle {
				delete(m.series, key)
				s.count--
			}
		}
		if len(m.series) > 0 {
			continue
		}
		delete(s.metricsBy, m.name)
		for _, name := range m.names() {
			delete(s.taken, name)
		}
	}
}

// metrics returns all series with the values that they have now.
func (s *store) metrics() []prometheus.Metric {
	metrics := make([]prometheus.Metric, 0, s.count)
	for _, m := range s.metricsBy {
		for _, one := range m.series {
			metrics = append(metrics, m.value(one))
		}
	}
	return metrics
}

func (m *metric) value(one *series) prometheus.Metric {
	var now prometheus.Metric
	var err error
	switch m.kind {
	case record.MetricCounter, record.MetricDefault:
		now, err = prometheus.NewConstMetricWithCreatedTimestamp(one.desc, prometheus.CounterValue, one.value, one.created)
	case record.MetricGauge:
		now, err = prometheus.NewConstMetric(one.desc, prometheus.GaugeValue, one.value)
	case record.MetricHistogram:
		buckets := make(map[float64]uint64, len(m.bounds))
		count := uint64(0)
		for i, bound := range m.bounds {
			count += one.buckets[i]
			buckets[bound] = count
		}
		count += one.buckets[len(m.bounds)]
		now, err = prometheus.NewConstHistogramWithCreatedTimestamp(one.desc, count, one.value, buckets, one.created)
	}
	if err != nil {
		return prometheus.NewInvalidMetric(one.desc, err)
	}
	return now
}
