package kafka

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tollgate-mesh/tollgate/adapter/report/pace"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// The headers of every message.
const (
	headerRecord  = "tollgate-record-id"
	headerKind    = "tollgate-kind"
	headerHandler = "tollgate-handler"

	headersEach = 3
)

// messages are the Kafka records of a part, in memory that the next part uses again.
type messages struct {
	key Key

	records []kgo.Record
	headers []kgo.RecordHeader
	failed  []error // why a record has no message
	bytes   []byte
}

// keptBytes is how much memory a producer keeps for its next part.
const keptBytes = 4 << 20

// build makes the messages. They are valid until the next build or release.
func (m *messages) build(ctx context.Context, part []record.Record) {
	m.records = slices.Grow(m.records[:0], len(part))[:len(part)]
	m.headers = slices.Grow(m.headers[:0], headersEach*len(part))[:headersEach*len(part)]
	m.failed = slices.Grow(m.failed[:0], len(part))[:len(part)]
	m.bytes = m.bytes[:0]
	for i := range pace.Over(ctx, part) {
		headers := m.headers[headersEach*i : headersEach*(i+1) : headersEach*(i+1)]
		m.failed[i] = m.set(&m.records[i], headers, &part[i])
	}
}

func (m *messages) set(message *kgo.Record, headers []kgo.RecordHeader, r *record.Record) error {
	id := m.text(r.ID())
	key, err := m.keyOf(r, id)
	if err != nil {
		return fmt.Errorf("record %s cannot be decoded: %w", id, err)
	}
	start := len(m.bytes)
	if m.bytes, err = record.AppendJSON(m.bytes, r); err != nil {
		return fmt.Errorf("record %s cannot be written as JSON: %w", id, err)
	}
	value := m.since(start)
	headers[0] = kgo.RecordHeader{Key: headerRecord, Value: id}
	headers[1] = kgo.RecordHeader{Key: headerKind, Value: m.text(r.Kind.String())}
	headers[2] = kgo.RecordHeader{Key: headerHandler, Value: m.text(r.Handler)}
	*message = kgo.Record{Key: key, Value: value, Headers: headers, Timestamp: r.Arrived}
	return nil
}

// since returns what was appended from start on. When more makes bytes move, what was returned stays.
func (m *messages) since(start int) []byte { return m.bytes[start:len(m.bytes):len(m.bytes)] }

func (m *messages) text(text string) []byte {
	start := len(m.bytes)
	m.bytes = append(m.bytes, text...)
	return m.since(start)
}

// keyOf never returns an empty key: compacted topics take none.
func (m *messages) keyOf(r *record.Record, id []byte) (key []byte, err error) {
	var text string
	switch m.key {
	case KeyHandler:
		text = r.Handler
	case KeyInstance:
		text, err = instance(r)
	case KeyTrace:
		if r.Kind == record.KindTraceSpan {
			var span record.TraceSpan
			span, err = record.DecodeTraceSpan(r.Raw)
			text = span.TraceID
		}
	case KeyRecord, "":
	}
	if text == "" {
		return id, err
	}
	return m.text(text), err
}

func instance(r *record.Record) (string, error) {
	switch r.Kind {
	case record.KindLogEntry:
		e, err := record.DecodeLogEntry(r.Raw)
		return e.Name, err
	case record.KindMetric:
		metric, err := record.DecodeMetric(r.Raw)
		return metric.Name, err
	case record.KindTraceSpan:
		s, err := record.DecodeTraceSpan(r.Raw)
		return s.Name, err
	case record.KindEdge:
		e, err := record.DecodeEdge(r.Raw)
		return e.Name, err
	case record.KindNothing:
		n, err := record.DecodeNothing(r.Raw)
		return n.Name, err
	case record.KindDecision:
		d, err := record.DecodeDecision(r.Raw)
		return d.Instance, err
	}
	return "", record.ErrKind
}

// release forgets the records, and the memory too if it is more than most parts need.
func (m *messages) release() {
	clear(m.records)
	clear(m.headers)
	if cap(m.bytes) > keptBytes {
		m.bytes = nil
	}
}
