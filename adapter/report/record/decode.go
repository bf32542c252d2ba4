package record

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// The decoders read as protobuf does: fields in any order, of a scalar that repeats the last, of a message that repeats all parts
// together, of a map's key that repeats all entries (Get gives the last). Unknown fields are passed over. In the decoded types an
// empty text, the zero time and the zero address stand for what was not sent, and for times and addresses that are none.

// LogEntry is an instance of the template logentry.
type LogEntry struct {
	// Name is the instance's full name.
	Name                        string
	Variables                   attribute.Map
	Timestamp                   time.Time
	Severity                    string
	MonitoredResourceType       string
	MonitoredResourceDimensions attribute.Map

	unread unread
}

// Metric is an instance of the template metric.
type Metric struct {
	// Name is the instance's full name.
	Name string
	// Value is of kind attribute.Unknown where there is none.
	Value                       attribute.Value
	Dimensions                  attribute.Map
	MonitoredResourceType       string
	MonitoredResourceDimensions attribute.Map
}

// TraceSpan is an instance of the template tracespan.
type TraceSpan struct {
	// Name is the instance's full name.
	Name                          string
	TraceID, SpanID, ParentSpanID string
	SpanName                      string
	StartTime, EndTime            time.Time
	SpanTags                      attribute.Map
	HTTPStatusCode                int64
	ClientSpan                    bool
	RewriteClientSpanID           bool
	SourceName                    string
	SourceIP                      netip.Addr
	DestinationName               string
	DestinationIP                 netip.Addr
	// The sizes are in bytes.
	RequestSize, RequestTotalSize   int64
	ResponseSize, ResponseTotalSize int64
	APIProtocol                     string

	unread unread
}

// Edge is an instance of the template edge.
type Edge struct {
	// Name is the instance's full name.
	Name                         string
	Timestamp                    time.Time
	SourceWorkloadNamespace      string
	SourceWorkloadName           string
	SourceOwner                  string
	SourceUID                    string
	DestinationWorkloadNamespace string
	DestinationWorkloadName      string
	DestinationOwner             string
	DestinationUID               string
	DestinationServiceNamespace  string
	DestinationServiceName       string
	ContextProtocol              string
	APIProtocol                  string

	unread unread
}

// Nothing is an instance of the template reportnothing.
type Nothing struct {
	// Name is the instance's full name.
	Name string
}

// unread marks the fields of a message that were sent and are no time or address.
type unread uint8

const (
	unreadTimestamp unread = 1 << iota
	unreadEndTime
	unreadSourceIP
	unreadDestinationIP

	unreadStartTime = unreadTimestamp // no message has both
)

// instanceName is the number that Mixer gives the name in every template's InstanceMsg.
const instanceName = 72295727

// DecodeLogEntry decodes a record of KindLogEntry.
func DecodeLogEntry(raw string) (LogEntry, error) { return decodeLogEntry(raw, room{}) }

func decodeLogEntry(raw string, into room) (e LogEntry, err error) {
	variables, dimensions := into.first, into.second
	var timestamp message
	r := wire.NewReader(raw)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			variables = into.entry(variables, &r, typ)
		case 2:
			timestamp.add(&r, typ)
		case 3:
			e.Severity = r.Text(typ)
		case 4:
			e.MonitoredResourceType = r.Text(typ)
		case 5:
			dimensions = into.entry(dimensions, &r, typ)
		case instanceName:
			e.Name = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	e.Timestamp = timestamp.time(&r, &e.unread, unreadTimestamp)
	if r.Err() != nil {
		return LogEntry{}, malformed(KindLogEntry, &r)
	}
	e.Variables, e.MonitoredResourceDimensions = variables, dimensions
	return e, nil
}

// DecodeMetric decodes a record of KindMetric.
func DecodeMetric(raw string) (Metric, error) { return decodeMetric(raw, room{}) }

func decodeMetric(raw string, into room) (m Metric, err error) {
	dimensions, resource := into.first, into.second
	var value message
	r := wire.NewReader(raw)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			value.add(&r, typ)
		case 2:
			dimensions = into.entry(dimensions, &r, typ)
		case 3:
			m.MonitoredResourceType = r.Text(typ)
		case 4:
			resource = into.entry(resource, &r, typ)
		case instanceName:
			m.Name = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	m.Value, err = attribute.Parse(value.content)
	r.Fail(err)
	if r.Err() != nil {
		return Metric{}, malformed(KindMetric, &r)
	}
	m.Dimensions, m.MonitoredResourceDimensions = dimensions, resource
	return m, nil
}

// DecodeTraceSpan decodes a record of KindTraceSpan.
func DecodeTraceSpan(raw string) (TraceSpan, error) { return decodeTraceSpan(raw, room{}) }

func decodeTraceSpan(raw string, into room) (s TraceSpan, err error) {
	tags := into.first
	var start, end, source, destination message
	r := wire.NewReader(raw)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			s.TraceID = r.Text(typ)
		case 2:
			s.SpanID = r.Text(typ)
		case 3:
			s.ParentSpanID = r.Text(typ)
		case 4:
			s.SpanName = r.Text(typ)
		case 5:
			start.add(&r, typ)
		case 6:
			end.add(&r, typ)
		case 7:
			tags = into.entry(tags, &r, typ)
		case 8:
			s.HTTPStatusCode = int64(r.Number(typ))
		case 9:
			s.ClientSpan = r.Number(typ) != 0
		case 10:
			s.RewriteClientSpanID = r.Number(typ) != 0
		case 11:
			s.SourceName = r.Text(typ)
		case 12:
			source.add(&r, typ)
		case 13:
			s.DestinationName = r.Text(typ)
		case 14:
			destination.add(&r, typ)
		case 15:
			s.RequestSize = int64(r.Number(typ))
		case 16:
			s.RequestTotalSize = int64(r.Number(typ))
		case 17:
			s.ResponseSize = int64(r.Number(typ))
		case 18:
			s.ResponseTotalSize = int64(r.Number(typ))
		case 19:
			s.APIProtocol = r.Text(typ)
		case instanceName:
			s.Name = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	s.StartTime = start.time(&r, &s.unread, unreadStartTime)
	s.EndTime = end.time(&r, &s.unread, unreadEndTime)
	s.SourceIP = source.addr(&r, &s.unread, unreadSourceIP)
	s.DestinationIP = destination.addr(&r, &s.unread, unreadDestinationIP)
	if r.Err() != nil {
		return TraceSpan{}, malformed(KindTraceSpan, &r)
	}
	s.SpanTags = tags
	return s, nil
}

// DecodeEdge decodes a record of KindEdge.
func DecodeEdge(raw string) (e Edge, err error) {
	var timestamp message
	r := wire.NewReader(raw)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			timestamp.add(&r, typ)
		case 10:
			e.SourceWorkloadNamespace = r.Text(typ)
		case 11:
			e.SourceWorkloadName = r.Text(typ)
		case 12:
			e.SourceOwner = r.Text(typ)
		case 13:
			e.SourceUID = r.Text(typ)
		case 20:
			e.DestinationWorkloadNamespace = r.Text(typ)
		case 21:
			e.DestinationWorkloadName = r.Text(typ)
		case 22:
			e.DestinationOwner = r.Text(typ)
		case 23:
			e.DestinationUID = r.Text(typ)
		case 24:
			e.DestinationServiceNamespace = r.Text(typ)
		case 25:
			e.DestinationServiceName = r.Text(typ)
		case 30:
			e.ContextProtocol = r.Text(typ)
		case 31:
			e.APIProtocol = r.Text(typ)
		case instanceName:
			e.Name = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	e.Timestamp = timestamp.time(&r, &e.unread, unreadTimestamp)
	if r.Err() != nil {
		return Edge{}, malformed(KindEdge, &r)
	}
	return e, nil
}

// DecodeNothing decodes a record of KindNothing.
func DecodeNothing(raw string) (n Nothing, err error) {
	r := wire.NewReader(raw)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		if field == instanceName {
			n.Name = r.Text(typ)
		} else {
			r.Skip(typ)
		}
	}
	if r.Err() != nil {
		return Nothing{}, malformed(KindNothing, &r)
	}
	return n, nil
}

func malformed(kind Kind, r *wire.Reader) error { return fmt.Errorf("%s: %w", kind, r.Err()) }

// message collects the content of a singular message. Parts of one that repeats are merged, which is to put them one after the other.
type message struct{ content string }

func (m *message) add(r *wire.Reader, typ wire.Type) {
	part := r.Text(typ)
	if m.content == "" {
		m.content = part
		return
	}
	// Each part must be well-formed alone: two halves of a field are none.
	r.Fail(complete(m.content))
	r.Fail(complete(part))
	m.content += part
}

func complete(message string) error {
	r := wire.NewReader(message)
	for _, typ, ok := r.Next(); ok; _, typ, ok = r.Next() {
		r.Skip(typ)
	}
	return r.Err()
}

func (m *message) time(r *wire.Reader, all *unread, mark unread) time.Time {
	value, err := attribute.ParseTimestamp(m.content)
	r.Fail(err)
	if value.Kind() == attribute.Timestamp {
		return value.Time()
	}
	if m.content != "" {
		*all |= mark
	}
	return time.Time{}
}

func (m *message) addr(r *wire.Reader, all *unread, mark unread) netip.Addr {
	content, err := attribute.ParseWrapped(m.content)
	r.Fail(err)
	value := attribute.OfIP(content)
	if value.Kind() != attribute.IP && content != "" {
		*all |= mark
	}
	return value.Addr()
}
