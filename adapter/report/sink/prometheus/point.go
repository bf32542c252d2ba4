package promsink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/pace"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// point is a record as a value for a series. The texts in it live no longer than the batch.
type point struct {
	rule     record.MetricRule
	instance string
	name     []byte // of the metric
	labels   []byte // of the series, as appendLabels writes them
	value    float64
	// sequence and index order the values of a gauge.
	sequence uint64
	index    int
	// err is why the record is refused; the rest means nothing then.
	err error
}

// scratch is the memory of one Deliver, used again by others. Points refer to the buffer; where it grows they keep the old one.
type scratch struct {
	buffer []byte
	points []point
	labels []label
}

// read makes a point of every record.
func (s *scratch) read(ctx context.Context, batch []record.Record, namespace string) {
	s.buffer = s.buffer[:0]
	s.points = slices.Grow(s.points[:0], len(batch))[:len(batch)]
	for i := range pace.Over(ctx, batch) {
		s.points[i] = point{sequence: batch[i].Sequence, index: batch[i].Index}
		s.points[i].err = s.readRecord(&s.points[i], &batch[i], namespace)
	}
}

func (s *scratch) readRecord(p *point, r *record.Record, namespace string) error {
	if r.Kind != record.KindMetric {
		return fmt.Errorf("a %s is no metric; do not send it here", r.Kind)
	}
	m, err := record.DecodeMetric(r.Raw)
	if err != nil {
		return err
	}
	p.rule, p.instance = r.Delivery.Rule(&m), m.Name
	if p.value, err = m.Number(); err != nil {
		return fmt.Errorf("instance %.100q: %w", m.Name, err)
	}
	if p.rule.Kind == record.MetricCounter && p.value < 0 {
		return fmt.Errorf("instance %.100q: the value of a counter is negative; make it a gauge or a histogram, or correct the expression in the instance", m.Name)
	}

	start := len(s.buffer)
	if s.buffer, err = appendName(s.buffer, namespace, &p.rule, isNamed(r.Delivery, &p.rule)); err != nil {
		return fmt.Errorf("instance %.100q: %w", m.Name, err)
	}
	p.name = s.buffer[start:len(s.buffer):len(s.buffer)]

	start = len(s.buffer)
	if err = s.takeLabels(m.Dimensions, p.rule.Kind == record.MetricHistogram); err != nil {
		return fmt.Errorf("instance %.100q: %w", m.Name, err)
	}
	s.buffer = appendLabels(s.buffer, s.labels)
	p.labels = s.buffer[start:len(s.buffer):len(s.buffer)]
	if len(p.labels) > maxLabelBytes {
		return fmt.Errorf("instance %.100q: the labels have %d bytes; at most %d are kept", m.Name, len(p.labels), maxLabelBytes)
	}
	return nil
}

// isNamed reports whether a handler gave the metric its name.
func isNamed(d *record.Delivery, rule *record.MetricRule) bool {
	if d == nil {
		return false
	}
	for i := range d.Metrics {
		if d.Metrics[i].Instance == rule.Instance {
			return d.Metrics[i].Name != ""
		}
	}
	return false
}

// refused returns the error for the records that were not counted, if any.
func (s *scratch) refused(batch []record.Record) error {
	var u *report.Undelivered
	for i := range s.points {
		if s.points[i].err == nil {
			continue
		}
		if u == nil {
			u = &report.Undelivered{Permanent: true, Err: fmt.Errorf("record %s: %w", batch[i].ID(), s.points[i].err)}
		}
		u.Records = append(u.Records, i)
	}
	if u == nil {
		return nil
	}
	return u
}

var errNoName = errors.New("the metric has no name; give it one in the handler's report.metrics")

// appendName appends what a metric is called. A name that a handler gave is kept as it is where Prometheus can have it; one that
// comes from the instance is made to follow Prometheus's conventions.
func appendName(dst []byte, namespace string, rule *record.MetricRule, given bool) ([]byte, error) {
	if rule.Name == "" {
		return dst, errNoName
	}
	if len(namespace)+len(rule.Name) > maxNameBytes {
		return dst, fmt.Errorf("the metric's name has %d bytes; use at most %d with the namespace", len(rule.Name), maxNameBytes)
	}
	start := len(dst)
	if namespace != "" {
		dst = append(append(dst, namespace...), '_')
	}
	name := rule.Name
	counter := rule.Kind == record.MetricCounter
	if !given && counter {
		name = strings.TrimSuffix(name, total)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case isLetter(c), c == ':', isDigit(c) && len(dst) > start:
			dst = append(dst, c)
		case isDigit(c):
			dst = append(dst, '_', c)
		default:
			dst = append(dst, '_')
		}
	}
	if given {
		return dst, nil
	}
	if unit := unitName(rule.Unit); unit != "" && !endsIn(dst[start:], unit) {
		dst = append(append(dst, '_'), unit...)
	}
	if counter {
		dst = append(dst, total...)
	}
	return dst, nil
}

const total = "_total"

// endsIn reports whether the last word of a name is the given one.
func endsIn(name []byte, word string) bool {
	rest, ok := bytes.CutSuffix(name, []byte(word))
	return ok && (len(rest) == 0 || rest[len(rest)-1] == '_')
}

// unitName returns the words that Prometheus has for units in UCUM. Others are left out of names, as are those of pure numbers.
func unitName(ucum string) string {
	switch ucum {
	case "d":
		return "days"
	case "h":
		return "hours"
	case "min":
		return "minutes"
	case "s":
		return "seconds"
	case "ms":
		return "milliseconds"
	case "us":
		return "microseconds"
	case "ns":
		return "nanoseconds"
	case "By":
		return "bytes"
	case "KiBy":
		return "kibibytes"
	case "MiBy":
		return "mebibytes"
	case "GiBy":
		return "gibibytes"
	case "kBy":
		return "kilobytes"
	case "MBy":
		return "megabytes"
	case "GBy":
		return "gigabytes"
	case "%":
		return "percent"
	default:
		return ""
	}
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

// label is a dimension on its way to a label.
type label struct {
	name  string
	value attribute.Value
}

func byName(a, b label) int { return strings.Compare(a.name, b.name) }

// takeLabels leaves the labels of dimensions in s.labels, sorted by names that are valid and different.
func (s *scratch) takeLabels(dimensions attribute.Map, histogram bool) error {
	s.labels = s.labels[:0]
	if len(dimensions) > maxLabels {
		return fmt.Errorf("there are %d dimensions; at most %d become labels", len(dimensions), maxLabels)
	}
	for _, d := range dimensions {
		s.labels = append(s.labels, label{name: d.Name, value: d.Value})
	}
	slices.SortStableFunc(s.labels, byName)
	// Of a name that comes twice the last counts.
	kept := s.labels[:0]
	for i, l := range s.labels {
		if i+1 == len(s.labels) || s.labels[i+1].name != l.name {
			kept = append(kept, l)
		}
	}
	s.labels = kept
	if s.rename(histogram) {
		slices.SortFunc(s.labels, byName)
	}
	return nil
}

// rename gives labels with a name that Prometheus does not have one that it has, and reports whether there were any. Valid names stay
// what they are, and the others are taken in the order of the names that they had, so that the outcome is always the same.
func (s *scratch) rename(histogram bool) (renamed bool) {
	isBucket := func(name string) bool { return histogram && name == "le" }
	for i := range s.labels {
		name := s.labels[i].name
		if isLabelName(name) && !isBucket(name) {
			continue
		}
		renamed = true
		name = labelName(name)
		candidate := name
		isTaken := func(l label) bool { return l.name == candidate }
		s.labels[i].name = "" // its own name does not stand in its way
		for n := 2; isBucket(candidate) || slices.ContainsFunc(s.labels, isTaken); n++ {
			candidate = fmt.Sprintf("%s%d", name, n)
		}
		s.labels[i].name = candidate
	}
	return renamed
}

// isLabelName reports whether Prometheus has such labels. Those that begin with two underscores are its own.
func isLabelName(name string) bool {
	for i := range len(name) {
		if !isLetter(name[i]) && (i == 0 || !isDigit(name[i])) {
			return false
		}
	}
	return name != "" && !strings.HasPrefix(name, "__")
}

// labelName makes a name valid.
func labelName(name string) string {
	valid := make([]byte, 0, len(name)+1)
	for i := range len(name) {
		if c := name[i]; isLetter(c) || isDigit(c) {
			valid = append(valid, c)
		} else {
			valid = append(valid, '_')
		}
	}
	// Exactly one underscore where there must be one.
	trimmed := strings.TrimLeft(string(valid), "_")
	if trimmed == "" || len(trimmed) < len(valid) || isDigit(trimmed[0]) {
		return "_" + trimmed
	}
	return trimmed
}

// separator ends names and values of labels: no UTF-8 has it.
const separator = "\xff"

// appendLabels appends the names and values of labels. Prometheus does not tell a label with an empty value from none, so both make
// the same series.
func appendLabels(dst []byte, labels []label) []byte {
	for _, l := range labels {
		start := len(dst)
		dst = append(append(dst, l.name...), separator...)
		value := len(dst)
		if dst = appendValue(dst, l.value); len(dst) == value {
			dst = dst[:start]
			continue
		}
		dst = append(dst, separator...)
	}
	return dst
}

func appendUTF8(dst []byte, text string) []byte {
	if utf8.ValidString(text) {
		return append(dst, text...)
	}
	for _, r := range text { // what is no UTF-8 comes as U+FFFD
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}
