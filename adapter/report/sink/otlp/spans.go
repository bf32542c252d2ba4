package otlp

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

func newSpan(r *record.Record, a *attributes) (*tracepb.Span, error) {
	s, err := record.DecodeTraceSpan(r.Raw)
	if err != nil {
		return nil, err
	}
	traceID, err := parseTraceID(s.TraceID)
	if err != nil {
		return nil, err
	}
	spanID, ok := parseID(s.SpanID, spanIDSize)
	if !ok {
		return nil, fmt.Errorf("span_id has %d characters and is none; it takes 16 hexadecimal digits, not all 0", len(s.SpanID))
	}
	parentID, hasParent := parseID(s.ParentSpanID, spanIDSize)

	a.begin()
	a.identify(r, r.Handler, s.Name)
	if s.ParentSpanID != "" && (!hasParent || s.RewriteClientSpanID && !s.ClientSpan) {
		a.text(attrParentSpanID, s.ParentSpanID)
	}
	out := &tracepb.Span{TraceId: traceID, Kind: tracepb.Span_SPAN_KIND_SERVER}
	failed := s.HTTPStatusCode >= 500
	switch {
	case s.ClientSpan && s.RewriteClientSpanID:
		a.text(attrSpanID, s.SpanID)
		spanID = ownSpanID(spanID)
	case s.RewriteClientSpanID:
		parentID = ownSpanID(spanID)
	}
	if s.ClientSpan {
		out.Kind = tracepb.Span_SPAN_KIND_CLIENT
		failed = s.HTTPStatusCode >= 400
	}
	if failed {
		out.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR}
	}
	out.SpanId, out.ParentSpanId = spanID, parentID
	if out.Name = validText(s.SpanName); out.Name == "" {
		out.Name = validText(record.ShortInstance(s.Name))
	}
	a.interval(out, &s, r)
	a.size("http.response.status_code", s.HTTPStatusCode)
	a.text("source.name", s.SourceName)
	if s.SourceIP.IsValid() {
		a.text("source.address", s.SourceIP.String())
	}
	a.text("destination.name", s.DestinationName)
	if s.DestinationIP.IsValid() {
		a.text("destination.address", s.DestinationIP.String())
	}
	a.text("network.protocol.name", s.APIProtocol)
	a.size("http.request.body.size", s.RequestSize)
	a.size("http.request.size", s.RequestTotalSize)
	a.size("http.response.body.size", s.ResponseSize)
	a.size("http.response.size", s.ResponseTotalSize)
	a.values("span_tags", "", s.SpanTags)
	out.Attributes = a.take()
	return out, nil
}

// interval sets a span's start and end. An end before the start becomes the start. Where one of them is missing, or is before 1970 which
// OTLP does not know, it is the other, and where both are it is the arrival. Attributes tell what was reported.
func (a *attributes) interval(out *tracepb.Span, s *record.TraceSpan, r *record.Record) {
	from, to := s.StartTime, s.EndTime
	if !from.IsZero() && !to.IsZero() && to.Before(from) {
		a.text(attrEndBeforeStart, timeText(to))
		to = from
	}
	start, hasStart := a.spanTime(from, attrStartTime, attrStartMissing)
	end, hasEnd := a.spanTime(to, attrEndTime, attrEndMissing)
	switch {
	case !hasStart && !hasEnd:
		start, _ = nanos(r.Arrived)
		end = start
	case !hasStart:
		start = end
	case !hasEnd:
		end = start
	}
	out.StartTimeUnixNano, out.EndTimeUnixNano = start, end
}

func (a *attributes) spanTime(t time.Time, name, missing string) (uint64, bool) {
	nano, ok := nanos(t)
	switch {
	case t.IsZero():
		a.flag(missing)
	case !ok:
		a.text(name, timeText(t))
	}
	return nano, ok
}

const (
	traceIDSize = 16
	spanIDSize  = 8
)

// parseTraceID takes Zipkin's ids of 64 bits too, which are the right half of one.
func parseTraceID(text string) ([]byte, error) {
	if id, ok := parseID(text, traceIDSize); ok {
		return id, nil
	}
	if id, ok := parseID(text, spanIDSize); ok {
		return append(make([]byte, traceIDSize-spanIDSize), id...), nil
	}
	return nil, fmt.Errorf("trace_id has %d characters and is none; it takes 16 or 32 hexadecimal digits, not all 0", len(text))
}

// parseID reads an id of so many bytes. One of zeros only is none.
func parseID(text string, size int) (id []byte, ok bool) {
	if len(text) != hex.EncodedLen(size) {
		return nil, false
	}
	id = make([]byte, size)
	if _, err := hex.Decode(id, []byte(text)); err != nil {
		return nil, false
	}
	for _, b := range id {
		ok = ok || b != 0
	}
	if !ok {
		return nil, false
	}
	return id, true
}

// ownSpanID returns the id of the client's span where both sides reported theirs under one, as Zipkin's B3 headers have it, and both
// asked for two: the client's span gets it, and the server's becomes its child. Both sides' reports may come from anywhere and at
// any time, so it is a function of the shared id alone.
func ownSpanID(shared []byte) []byte {
	id := ^binary.BigEndian.Uint64(shared)
	if id == 0 {
		id = 1
	}
	return binary.BigEndian.AppendUint64(nil, id)
}
