package record

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
)

// AppendJSON appends a record as one line of JSON, without a line break at its end, in the schema of docs/records.md. It reads the
// wire form directly and allocates nothing for records of usual size. At an error dst comes back as it was.
func AppendJSON(dst []byte, r *Record) ([]byte, error) {
	// On the stack; a record with more values than these spills to the heap.
	var first [24]attribute.Entry
	var second [8]attribute.Entry
	into := room{first: first[:0], second: second[:0]}

	l := line{bytes: dst}
	switch r.Kind {
	case KindLogEntry:
		e, err := decodeLogEntry(r.Raw, into)
		if err != nil {
			return dst, err
		}
		l.begin(r, r.Handler, e.Name)
		l.time(`,"timestamp":`, e.Timestamp, e.unread&unreadTimestamp != 0)
		l.text(`,"severity":`, e.Severity)
		l.values(`,"variables":`, e.Variables)
		l.text(`,"monitored_resource_type":`, e.MonitoredResourceType)
		l.values(`,"monitored_resource_dimensions":`, e.MonitoredResourceDimensions)
	case KindMetric:
		m, err := decodeMetric(r.Raw, into)
		if err != nil {
			return dst, err
		}
		l.begin(r, r.Handler, m.Name)
		l.raw(`,"value":`)
		if !l.value(m.Value) {
			l.note(`,"value":`)
		}
		l.values(`,"dimensions":`, m.Dimensions)
		l.text(`,"monitored_resource_type":`, m.MonitoredResourceType)
		l.values(`,"monitored_resource_dimensions":`, m.MonitoredResourceDimensions)
	case KindTraceSpan:
		s, err := decodeTraceSpan(r.Raw, into)
		if err != nil {
			return dst, err
		}
		l.begin(r, r.Handler, s.Name)
		l.traceSpan(&s)
	case KindEdge:
		e, err := DecodeEdge(r.Raw)
		if err != nil {
			return dst, err
		}
		l.begin(r, r.Handler, e.Name)
		l.edge(&e)
	case KindNothing:
		n, err := DecodeNothing(r.Raw)
		if err != nil {
			return dst, err
		}
		l.begin(r, r.Handler, n.Name)
	case KindDecision:
		d, err := DecodeDecision(r.Raw)
		if err != nil {
			return dst, err
		}
		handler := d.Handler
		if handler == "" {
			handler = r.Handler
		}
		l.begin(r, handler, d.Instance)
		l.decision(&d)
	default:
		return dst, fmt.Errorf("%w: %d", ErrKind, r.Kind)
	}
	return l.end(), nil
}

// line writes the JSON object of a record. Keys come as they are written, with the comma before and the colon after.
type line struct {
	bytes []byte
	// undecoded is the names of the fields written as null, as the inside of a JSON array.
	undecoded []byte
}

func (l *line) raw(text string) { l.bytes = append(l.bytes, text...) }

func (l *line) begin(r *Record, handler, instance string) {
	l.raw(`{"id":"`)
	l.bytes = r.appendID(l.bytes)
	l.raw(`","kind":"`)
	l.raw(r.Kind.String())
	l.raw(`","handler":`)
	l.bytes = appendString(l.bytes, handler)
	l.raw(`,"instance":`)
	l.bytes = appendString(l.bytes, instance)
	l.text(`,"caller":`, r.Caller)
	l.raw(`,"arrived":`)
	l.bytes = appendTime(l.bytes, r.Arrived)
	if r.Delivery != nil && r.Delivery.SampleOneIn > 1 {
		l.number(`,"sample_one_in":`, r.Delivery.SampleOneIn)
	}
}

func (l *line) end() []byte {
	if len(l.undecoded) > 0 {
		l.raw(`,"undecoded":[`)
		l.bytes = append(l.bytes, l.undecoded...)
		l.raw(`]`)
	}
	l.raw(`}`)
	return l.bytes
}

func (l *line) traceSpan(s *TraceSpan) {
	l.text(`,"trace_id":`, s.TraceID)
	l.text(`,"span_id":`, s.SpanID)
	l.text(`,"parent_span_id":`, s.ParentSpanID)
	l.text(`,"span_name":`, s.SpanName)
	l.time(`,"start_time":`, s.StartTime, s.unread&unreadStartTime != 0)
	l.time(`,"end_time":`, s.EndTime, s.unread&unreadEndTime != 0)
	l.number(`,"http_status_code":`, s.HTTPStatusCode)
	l.bool(`,"client_span":`, s.ClientSpan)
	l.bool(`,"rewrite_client_span_id":`, s.RewriteClientSpanID)
	l.text(`,"source_name":`, s.SourceName)
	l.addr(`,"source_ip":`, s.SourceIP, s.unread&unreadSourceIP != 0)
	l.text(`,"destination_name":`, s.DestinationName)
	l.addr(`,"destination_ip":`, s.DestinationIP, s.unread&unreadDestinationIP != 0)
	l.number(`,"request_size":`, s.RequestSize)
	l.number(`,"request_total_size":`, s.RequestTotalSize)
	l.number(`,"response_size":`, s.ResponseSize)
	l.number(`,"response_total_size":`, s.ResponseTotalSize)
	l.text(`,"api_protocol":`, s.APIProtocol)
	l.values(`,"span_tags":`, s.SpanTags)
}

func (l *line) edge(e *Edge) {
	l.time(`,"timestamp":`, e.Timestamp, e.unread&unreadTimestamp != 0)
	l.text(`,"source_workload_namespace":`, e.SourceWorkloadNamespace)
	l.text(`,"source_workload_name":`, e.SourceWorkloadName)
	l.text(`,"source_owner":`, e.SourceOwner)
	l.text(`,"source_uid":`, e.SourceUID)
	l.text(`,"destination_workload_namespace":`, e.DestinationWorkloadNamespace)
	l.text(`,"destination_workload_name":`, e.DestinationWorkloadName)
	l.text(`,"destination_owner":`, e.DestinationOwner)
	l.text(`,"destination_uid":`, e.DestinationUID)
	l.text(`,"destination_service_namespace":`, e.DestinationServiceNamespace)
	l.text(`,"destination_service_name":`, e.DestinationServiceName)
	l.text(`,"context_protocol":`, e.ContextProtocol)
	l.text(`,"api_protocol":`, e.APIProtocol)
}

func (l *line) decision(d *Decision) {
	l.text(`,"decision_id":`, d.ID)
	l.text(`,"outcome":`, d.Outcome)
	l.text(`,"code":`, d.Code)
	l.text(`,"check":`, d.Check)
	l.text(`,"reason":`, d.Reason)
	l.text(`,"class":`, d.Class)
	l.text(`,"revision":`, d.Revision)
	l.bool(`,"cached":`, d.Cached)
	l.raw(`,"latency_seconds":`)
	l.bytes = appendSeconds(l.bytes, d.Latency)
	l.json(`,"input":`, d.Input)
	l.json(`,"checks":`, d.Checks)
	l.json(`,"shadow":`, d.Shadow)
}

// text writes a text unless it is empty, which in protobuf is the same as absent.
func (l *line) text(key, text string) {
	if text != "" {
		l.raw(key)
		l.bytes = appendString(l.bytes, text)
	}
}

func (l *line) number(key string, v int64) {
	l.raw(key)
	l.bytes = strconv.AppendInt(l.bytes, v, 10)
}

func (l *line) bool(key string, v bool) {
	l.raw(key)
	l.bytes = strconv.AppendBool(l.bytes, v)
}

func (l *line) time(key string, t time.Time, unread bool) {
	switch {
	case unread:
		l.null(key)
	case !t.IsZero():
		l.raw(key)
		l.bytes = appendTime(l.bytes, t)
	}
}

func (l *line) addr(key string, addr netip.Addr, unread bool) {
	switch {
	case unread:
		l.null(key)
	case addr.IsValid():
		l.raw(key)
		l.bytes = appendAddr(l.bytes, addr)
	}
}

// null writes a field that was sent and cannot be read.
func (l *line) null(key string) {
	l.raw(key)
	l.raw("null")
	l.note(key)
}

// note adds a field, or the value of a name in it, to those that could not be read.
func (l *line) note(key string, name ...string) {
	if len(l.undecoded) > 0 {
		l.undecoded = append(l.undecoded, ',')
	}
	l.undecoded = append(l.undecoded, '"')
	l.undecoded = append(l.undecoded, key[len(`,"`):len(key)-len(`":`)]...)
	for _, name := range name {
		l.undecoded = appendEscaped(append(l.undecoded, '.'), name)
	}
	l.undecoded = append(l.undecoded, '"')
}

// values writes a map by its sorted keys, and of a key that repeats the last entry. It sorts values in place.
func (l *line) values(key string, values attribute.Map) {
	if len(values) == 0 {
		return
	}
	for i := range values {
		// Names that come out the same must be told to be the same.
		if name := values[i].Name; !utf8.ValidString(name) {
			values[i].Name = replaceInvalid(name)
		}
	}
	sortByName(values)
	l.raw(key)
	separator := byte('{')
	for i, entry := range values {
		if i+1 < len(values) && values[i+1].Name == entry.Name {
			continue
		}
		l.bytes = append(l.bytes, separator)
		separator = ','
		l.bytes = append(appendString(l.bytes, entry.Name), ':')
		if !l.value(entry.Value) {
			l.note(key, entry.Name)
		}
	}
	l.raw("}")
}

// sortByName sorts and keeps the order of equal names. Few values are the rule, and for them insertion is quickest; many must not
// take quadratic time.
func sortByName(values attribute.Map) {
	const few = 24
	if len(values) > few {
		slices.SortStableFunc(values, func(a, b attribute.Entry) int { return strings.Compare(a.Name, b.Name) })
		return
	}
	for i := 1; i < len(values); i++ {
		entry, to := values[i], i
		for ; to > 0 && values[to-1].Name > entry.Name; to-- {
			values[to] = values[to-1]
		}
		if to != i {
			values[to] = entry
		}
	}
}

// value writes a value, and null for one that cannot be read.
func (l *line) value(v attribute.Value) bool {
	switch v.Kind() {
	case attribute.Unknown:
		l.raw("null")
		return false
	case attribute.String, attribute.Email, attribute.DNSName, attribute.URI:
		text, _ := v.Text()
		l.bytes = appendString(l.bytes, text)
	case attribute.Int64:
		l.bytes = strconv.AppendInt(l.bytes, v.Int64(), 10)
	case attribute.Double:
		l.bytes = appendDouble(l.bytes, v.Double())
	case attribute.Bool:
		l.bytes = strconv.AppendBool(l.bytes, v.Bool())
	case attribute.IP:
		l.bytes = appendAddr(l.bytes, v.Addr())
	case attribute.Timestamp:
		l.bytes = appendTime(l.bytes, v.Time())
	case attribute.Duration:
		l.bytes = appendSeconds(l.bytes, v.Duration())
	}
	return true
}

// json writes text that should be JSON, on one line, unless it is empty.
func (l *line) json(key, text string) {
	if text == "" {
		return
	}
	l.raw(key)
	start := len(l.bytes)
	l.bytes = append(l.bytes, text...)
	if !json.Valid(l.bytes[start:]) {
		l.bytes = l.bytes[:start]
		l.raw("null")
		l.note(key)
		return
	}
	l.bytes = l.bytes[:start]
	// What is left to do is to take out the space between tokens and to write the strings as all others here.
	const deepest = 1000 // readers have limits too
	depth := 0
	for at := 0; at < len(text); {
		switch c := text[at]; c {
		case ' ', '\t', '\r', '\n':
			at++
		case '"':
			end := at + 1
			for text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			l.bytes = append(l.bytes, '"')
			l.bytes = appendInside(l.bytes, text[at+1:end], true)
			l.bytes = append(l.bytes, '"')
			at = end + 1
		case '{', '[':
			if depth++; depth > deepest {
				l.bytes = l.bytes[:start]
				l.raw("null")
				l.note(key)
				return
			}
			l.bytes = append(l.bytes, c)
			at++
		default:
			if c == '}' || c == ']' {
				depth--
			}
			l.bytes = append(l.bytes, c)
			at++
		}
	}
}

func appendTime(dst []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(dst, '"'), time.RFC3339Nano), '"')
}

func appendAddr(dst []byte, addr netip.Addr) []byte {
	return append(addr.AppendTo(append(dst, '"')), '"')
}

// appendDouble writes a number as encoding/json does, and what JSON has no number for as a string.
func appendDouble(dst []byte, v float64) []byte {
	switch {
	case math.IsNaN(v):
		return append(dst, `"NaN"`...)
	case math.IsInf(v, 1):
		return append(dst, `"+Inf"`...)
	case math.IsInf(v, -1):
		return append(dst, `"-Inf"`...)
	}
	if abs := math.Abs(v); abs == 0 || (abs >= 1e-6 && abs < 1e21) {
		return strconv.AppendFloat(dst, v, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, v, 'e', -1, 64)
	if n := len(dst); n >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' { // e-09 to e-9
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

// appendSeconds writes a duration as a number of seconds, exactly.
func appendSeconds(dst []byte, d time.Duration) []byte {
	left := uint64(d)
	if d < 0 {
		dst, left = append(dst, '-'), -left
	}
	const second = uint64(time.Second)
	dst = strconv.AppendUint(dst, left/second, 10)
	fraction := left % second
	if fraction == 0 {
		return dst
	}
	dst = append(dst, '.')
	for unit := second / 10; fraction > 0; unit /= 10 {
		dst = append(dst, '0'+byte(fraction/unit)) //nolint:gosec // one digit
		fraction %= unit
	}
	return dst
}

func appendString(dst []byte, text string) []byte {
	return append(appendEscaped(append(dst, '"'), text), '"')
}

func appendEscaped(dst []byte, text string) []byte { return appendInside(dst, text, false) }

// appendInside writes text as the inside of a JSON string, or, if it is one already (escaped), makes it one of ours: valid UTF-8,
// and nothing in it that ends a line or drives a terminal. Besides what JSON demands, that is DEL, the C1 control characters, and
// the line separators of Unicode.
func appendInside(dst []byte, text string, escaped bool) []byte {
	at := 0
	for at < len(text) && plain[text[at]] {
		at++
	}
	if at == len(text) { // as nearly all are
		return append(dst, text...)
	}
	from := 0
	for at < len(text) {
		c := text[at]
		if plain[c] || escaped && (c == '\\' || c == '"') {
			at++
			continue
		}
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(text[at:])
			if (r != utf8.RuneError || size > 1) && r > '\u009f' && r != '\u2028' && r != '\u2029' {
				at += size
				continue
			}
		}
		dst = append(dst, text[from:at]...)
		at += size
		from = at
		switch r {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		case utf8.RuneError:
			dst = utf8.AppendRune(dst, utf8.RuneError)
		default:
			const digits = "0123456789abcdef"
			dst = append(dst, '\\', 'u', digits[r>>12&0xf], digits[r>>8&0xf], digits[r>>4&0xf], digits[r&0xf])
		}
	}
	return append(dst, text[from:]...)
}

// plain marks the bytes that stand for themselves in a JSON string.
var plain = func() (plain [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		plain[c] = c != '"' && c != '\\'
	}
	return plain
}()

// replaceInvalid replaces every byte that is no UTF-8, as appendInside does.
func replaceInvalid(text string) string {
	var b strings.Builder
	for _, r := range text {
		b.WriteRune(r)
	}
	return b.String()
}
