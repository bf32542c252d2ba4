package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// Delivery is what a handler's configuration says about how its records are to look where they are delivered. It is kept with the
// records, so that what was accepted under one configuration is delivered by it, after a restart too. It is immutable, and a nil
// one has all the defaults.
type Delivery struct {
	// SampleOneIn is of how many records this is one; 0 and 1 for all of them.
	SampleOneIn int64
	// Severities are what the texts of log entries' severities mean.
	Severities []Severity
	// Metrics say what the metric instances are.
	Metrics []MetricRule
}

// SeverityNumber is how grave a log entry is, numbered as in OpenTelemetry's logs data model.
type SeverityNumber int32

// The severities that texts can be mapped to.
const (
	SeverityUnspecified SeverityNumber = 0
	SeverityTrace       SeverityNumber = 1
	SeverityDebug       SeverityNumber = 5
	SeverityInfo        SeverityNumber = 9
	SeverityWarn        SeverityNumber = 13
	SeverityError       SeverityNumber = 17
	SeverityFatal       SeverityNumber = 21
)

// Severity gives one text a meaning.
type Severity struct {
	// Text is compared without regard to case.
	Text string
	// Number is what it means.
	Number SeverityNumber
}

// MetricKind says what the values of a metric instance are.
type MetricKind uint8

// The kinds of metrics. The numbers are kept on disks.
const (
	// MetricDefault leaves it to the value: an int64 is counted, everything else is put into a histogram.
	MetricDefault MetricKind = iota
	// MetricCounter adds values up; a negative one is refused.
	MetricCounter
	// MetricGauge keeps the last value.
	MetricGauge
	// MetricHistogram counts values by size.
	MetricHistogram
)

// MetricRule says what one metric instance is.
type MetricRule struct {
	// Instance is the instance's full name, <instance>.instance.<namespace>, or its first part alone.
	Instance string
	// Name is what the metric is called; empty for the first part of the instance's name.
	Name string
	// Kind is what its values are.
	Kind MetricKind
	// Unit is in UCUM, such as "s" or "By"; empty if unknown.
	Unit string
	// Description is for people.
	Description string
	// Bounds are the upper bounds of a histogram's buckets in ascending order; nil for DefaultBounds.
	Bounds []float64
}

// DefaultBounds are the buckets of histograms whose handler names none: Prometheus's own, for seconds.
var DefaultBounds = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// The wire form is a protobuf message. It is read by later versions, so numbers stay.
const (
	deliverySample   = 1
	deliverySeverity = 2 // text 1, number 2
	deliveryMetric   = 3 // the fields of MetricRule in order; bounds repeated

	metricKindField   = 3
	metricBoundsField = 6
)

// Append appends the wire form, from which ParseDelivery makes an equal value. Of the zero value and nil it is empty.
func (d *Delivery) Append(dst []byte) []byte {
	if d == nil {
		return dst
	}
	dst = appendNumber(dst, deliverySample, uint64(max(d.SampleOneIn, 0)))
	for _, s := range d.Severities {
		entry := appendText(nil, 1, s.Text)
		entry = appendNumber(entry, 2, uint64(max(s.Number, 0)))
		dst = appendMessage(dst, deliverySeverity, entry)
	}
	for i := range d.Metrics {
		m := &d.Metrics[i]
		rule := appendText(nil, 1, m.Instance)
		rule = appendText(rule, 2, m.Name)
		rule = appendNumber(rule, metricKindField, uint64(m.Kind))
		rule = appendText(rule, 4, m.Unit)
		rule = appendText(rule, 5, m.Description)
		for _, bound := range m.Bounds {
			rule = binary.AppendUvarint(rule, metricBoundsField<<3|uint64(wire.Fixed64))
			rule = binary.LittleEndian.AppendUint64(rule, math.Float64bits(bound))
		}
		dst = appendMessage(dst, deliveryMetric, rule)
	}
	return dst
}

func appendNumber(dst []byte, field, value uint64) []byte {
	if value == 0 {
		return dst
	}
	return binary.AppendUvarint(binary.AppendUvarint(dst, field<<3|uint64(wire.Varint)), value)
}

// appendMessage appends a field that is there even if it is empty.
func appendMessage(dst []byte, field uint64, content []byte) []byte {
	dst = binary.AppendUvarint(binary.AppendUvarint(dst, field<<3|uint64(wire.Bytes)), uint64(len(content)))
	return append(dst, content...)
}

// ParseDelivery reads what Append wrote; of nothing it makes nil. Its texts are parts of raw.
func ParseDelivery(raw string) (*Delivery, error) {
	if raw == "" {
		return nil, nil //nolint:nilnil // a nil delivery is a usable one
	}
	d := &Delivery{}
	r := wire.NewReader(raw)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case deliverySample:
			d.SampleOneIn = int64(r.Number(typ))
		case deliverySeverity:
			r.Fail(d.parseSeverity(r.Text(typ)))
		case deliveryMetric:
			r.Fail(d.parseMetric(r.Text(typ)))
		default:
			r.Skip(typ)
		}
	}
	if r.Err() != nil {
		return nil, fmt.Errorf("delivery: %w", r.Err())
	}
	return d, nil
}

func (d *Delivery) parseSeverity(raw string) error {
	var s Severity
	r := wire.NewReader(raw)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			s.Text = r.Text(typ)
		case 2:
			s.Number = SeverityNumber(r.Number(typ)) //nolint:gosec // what Append wrote fits
		default:
			r.Skip(typ)
		}
	}
	d.Severities = append(d.Severities, s)
	return r.Err()
}

func (d *Delivery) parseMetric(raw string) error {
	var m MetricRule
	r := wire.NewReader(raw)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			m.Instance = r.Text(typ)
		case 2:
			m.Name = r.Text(typ)
		case metricKindField:
			m.Kind = MetricKind(min(r.Number(typ), math.MaxUint8)) // a kind that is not known is a default one, and stays unknown
		case 4:
			m.Unit = r.Text(typ)
		case 5:
			m.Description = r.Text(typ)
		case metricBoundsField:
			m.Bounds = append(m.Bounds, math.Float64frombits(r.Number64(typ)))
		default:
			r.Skip(typ)
		}
	}
	d.Metrics = append(d.Metrics, m)
	return r.Err()
}

// commonSeverities are the texts that Mixer's adapters and their users write.
var commonSeverities = []Severity{
	{"trace", SeverityTrace},
	{"debug", SeverityDebug},
	{"default", SeverityInfo},
	{"info", SeverityInfo},
	{"notice", SeverityInfo + 1},
	{"warn", SeverityWarn},
	{"warning", SeverityWarn},
	{"error", SeverityError},
	{"critical", SeverityFatal},
	{"alert", SeverityFatal + 1},
	{"emergency", SeverityFatal + 2},
	{"fatal", SeverityFatal},
}

// Severity returns what the text of a log entry's severity means: by the handler's own words, else by those in common use, else
// it is unspecified.
func (d *Delivery) Severity(text string) SeverityNumber {
	var own []Severity
	if d != nil {
		own = d.Severities
	}
	for _, list := range [][]Severity{own, commonSeverities} {
		for i := range list {
			if strings.EqualFold(list[i].Text, text) {
				return list[i].Number
			}
		}
	}
	return SeverityUnspecified
}

// ShortInstance returns the first part of an instance's full name, <instance>.instance.<namespace>.
func ShortInstance(name string) string {
	short, _, _ := strings.Cut(name, ".")
	return short
}

// Errors of Number.
var (
	errNoValue   = errors.New("the metric has no value; check the expression in the instance")
	errNoNumber  = errors.New("the metric's value is no number")
	errNotFinite = errors.New("the metric's value is not finite")
)

// Number returns a metric's value as sinks of metrics need it: an int64, or a double, or a duration in seconds. It is an error for
// everything else.
func (m *Metric) Number() (float64, error) {
	var number float64
	switch m.Value.Kind() {
	case attribute.Int64:
		number = float64(m.Value.Int64())
	case attribute.Double:
		number = m.Value.Double()
	case attribute.Duration:
		number = m.Value.Duration().Seconds()
	case attribute.Unknown:
		return 0, errNoValue
	case attribute.String, attribute.Bool, attribute.IP, attribute.Timestamp, attribute.Email, attribute.DNSName, attribute.URI:
		return 0, fmt.Errorf("%w but a %s", errNoNumber, m.Value.Kind())
	}
	if math.IsNaN(number) || math.IsInf(number, 0) {
		return 0, errNotFinite
	}
	return number, nil
}

// ruleOf returns the first rule for an instance; nil if there is none.
func (d *Delivery) ruleOf(instance string) *MetricRule {
	if d != nil {
		for i := range d.Metrics {
			if d.Metrics[i].Instance == instance {
				return &d.Metrics[i]
			}
		}
	}
	return nil
}

// Rule returns what a metric is: by the handler's rule for its instance, of which the full name goes before the first part, with
// the defaults filled in. Its kind is never MetricDefault and its name never empty, unless the instance has none. The unit of
// a duration is "s" whatever the rule says, because that is what Number gives.
func (d *Delivery) Rule(m *Metric) MetricRule {
	short := ShortInstance(m.Name)
	rule := MetricRule{Instance: m.Name}
	if own := d.ruleOf(m.Name); own != nil {
		rule = *own
	} else if own = d.ruleOf(short); own != nil {
		rule = *own
	}
	if rule.Name == "" {
		rule.Name = short
	}
	switch rule.Kind {
	case MetricCounter, MetricGauge, MetricHistogram:
	case MetricDefault:
		fallthrough
	default:
		rule.Kind = MetricHistogram
		if m.Value.Kind() == attribute.Int64 {
			rule.Kind = MetricCounter
		}
	}
	if m.Value.Kind() == attribute.Duration {
		rule.Unit = "s"
	}
	if rule.Kind == MetricHistogram && len(rule.Bounds) == 0 {
		rule.Bounds = DefaultBounds
	}
	return rule
}
