package otlp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/slim/otlp/metrics/v1"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

var errNoName = errors.New("the metric has no name; name its instance")

// aggregation adds up the metrics of a batch: one metric for each name, kind, unit and description, with one data point for each
// set of attributes.
type aggregation struct {
	points []*point
	byKey  map[string]*point
	key    []byte
}

// point is one data point in the making.
type point struct {
	rule       record.MetricRule
	attributes []*commonpb.KeyValue
	first      time.Time // arrivals
	last       time.Time

	// A gauge's is the last, a counter's the sum.
	value   float64
	integer int64
	isInt   bool // integer is the value, exactly

	// A histogram has these, and its sum in value.
	count    uint64
	buckets  []uint64
	min, max float64
}

func newAggregation() *aggregation { return &aggregation{byKey: map[string]*point{}} }

// add takes one metric record in.
func (g *aggregation) add(r *record.Record, a *attributes) error {
	m, err := record.DecodeMetric(r.Raw)
	if err != nil {
		return err
	}
	number, err := m.Number()
	if err != nil {
		return err
	}
	rule := r.Delivery.Rule(&m)
	switch {
	case rule.Name == "":
		return errNoName
	case rule.Kind == record.MetricCounter && number < 0:
		return fmt.Errorf("the counter %.100q got a negative value; make it a gauge or a histogram", validText(rule.Name))
	}
	a.begin()
	a.resource(m.MonitoredResourceType, m.MonitoredResourceDimensions)
	a.values("dimensions", "", m.Dimensions)
	g.key = appendKey(g.key[:0], &rule, a.list)
	p := g.byKey[string(g.key)]
	if p == nil {
		p = &point{rule: rule, attributes: slices.Clone(a.list), first: r.Arrived, last: r.Arrived, isInt: true, min: number, max: number}
		g.byKey[string(g.key)] = p
		g.points = append(g.points, p)
	}
	p.add(r.Arrived, number, m.Value)
	return nil
}

func (p *point) add(arrived time.Time, number float64, value attribute.Value) {
	isLast := !arrived.Before(p.last)
	if isLast {
		p.last = arrived
	}
	if arrived.Before(p.first) {
		p.first = arrived
	}
	isInt := value.Kind() == attribute.Int64
	switch p.rule.Kind {
	case record.MetricGauge:
		if isLast {
			p.value, p.integer, p.isInt = number, value.Int64(), isInt
		}
	case record.MetricCounter:
		p.value += number
		if p.isInt = p.isInt && isInt && value.Int64() <= math.MaxInt64-p.integer; p.isInt {
			p.integer += value.Int64()
		}
	case record.MetricHistogram:
		if p.buckets == nil {
			p.buckets = make([]uint64, len(p.rule.Bounds)+1)
		}
		p.buckets[sort.SearchFloat64s(p.rule.Bounds, number)]++
		p.count++
		p.value += number
		p.min, p.max = min(p.min, number), max(p.max, number)
	case record.MetricDefault: // Rule gives none
	}
}

// metrics returns what was added up, in the order in which it came.
func (g *aggregation) metrics() []*metricspb.Metric {
	var list []*metricspb.Metric
	byKey := map[string]*metricspb.Metric{}
	for _, p := range g.points {
		g.key = appendMetricKey(g.key[:0], &p.rule)
		m := byKey[string(g.key)]
		if m == nil {
			m = newMetric(&p.rule)
			byKey[string(g.key)] = m
			list = append(list, m)
		}
		p.addTo(m)
	}
	return list
}

// newMetric makes a metric without data points. They are deltas: what came before this batch, and from other replicas, is
// somebody else's sum.
func newMetric(rule *record.MetricRule) *metricspb.Metric {
	const delta = metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA
	m := &metricspb.Metric{Name: validText(rule.Name), Unit: validText(rule.Unit), Description: validText(rule.Description)}
	switch rule.Kind {
	case record.MetricCounter:
		m.Data = &metricspb.Metric_Sum{Sum: &metricspb.Sum{AggregationTemporality: delta, IsMonotonic: true}}
	case record.MetricGauge:
		m.Data = &metricspb.Metric_Gauge{Gauge: &metricspb.Gauge{}}
	case record.MetricHistogram:
		m.Data = &metricspb.Metric_Histogram{Histogram: &metricspb.Histogram{AggregationTemporality: delta}}
	case record.MetricDefault: // Rule gives none
	}
	return m
}

func (p *point) addTo(m *metricspb.Metric) {
	first, _ := nanos(p.first)
	last, _ := nanos(p.last)
	switch data := m.GetData().(type) {
	case *metricspb.Metric_Sum:
		data.Sum.DataPoints = append(data.Sum.DataPoints, p.number(first, last))
	case *metricspb.Metric_Gauge:
		data.Gauge.DataPoints = append(data.Gauge.DataPoints, p.number(0, last))
	case *metricspb.Metric_Histogram:
		h := &metricspb.HistogramDataPoint{
			Attributes: p.attributes, StartTimeUnixNano: first, TimeUnixNano: last,
			Count: p.count, BucketCounts: p.buckets, ExplicitBounds: p.rule.Bounds, Min: &p.min, Max: &p.max,
		}
		if p.min >= 0 { // else it is no sum that only grows, and OTLP wants none
			h.Sum = &p.value
		}
		data.Histogram.DataPoints = append(data.Histogram.DataPoints, h)
	}
}

func (p *point) number(first, last uint64) *metricspb.NumberDataPoint {
	n := &metricspb.NumberDataPoint{Attributes: p.attributes, StartTimeUnixNano: first, TimeUnixNano: last}
	if p.isInt {
		n.Value = &metricspb.NumberDataPoint_AsInt{AsInt: p.integer}
	} else {
		n.Value = &metricspb.NumberDataPoint_AsDouble{AsDouble: p.value}
	}
	return n
}

// appendKey appends what tells a data point from others. Attributes come in one order for one set.
func appendKey(dst []byte, rule *record.MetricRule, list []*commonpb.KeyValue) []byte {
	dst = appendMetricKey(dst, rule)
	dst = binary.AppendUvarint(dst, uint64(len(rule.Bounds)))
	for _, bound := range rule.Bounds {
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(bound))
	}
	for _, pair := range list {
		dst = appendSized(dst, pair.GetKey())
		switch v := pair.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			dst = appendSized(append(dst, 's'), v.StringValue)
		case *commonpb.AnyValue_BytesValue:
			dst = appendSized(append(dst, 'y'), string(v.BytesValue))
		case *commonpb.AnyValue_IntValue:
			dst = binary.LittleEndian.AppendUint64(append(dst, 'i'), uint64(v.IntValue))
		case *commonpb.AnyValue_DoubleValue:
			dst = binary.LittleEndian.AppendUint64(append(dst, 'd'), math.Float64bits(v.DoubleValue))
		case *commonpb.AnyValue_BoolValue:
			if v.BoolValue {
				dst = append(dst, 't')
			} else {
				dst = append(dst, 'f')
			}
		default:
			dst = append(dst, 'n')
		}
	}
	return dst
}

func appendMetricKey(dst []byte, rule *record.MetricRule) []byte {
	dst = append(dst, byte(rule.Kind))
	dst = appendSized(dst, rule.Name)
	dst = appendSized(dst, rule.Unit)
	return appendSized(dst, rule.Description)
}

func appendSized(dst []byte, text string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(text))), text...)
}
