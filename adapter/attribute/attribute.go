// Package attribute holds the values that Mixer hands over in instances: istio.policy.v1beta1.Value, and maps of it.
package attribute

import (
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// Kind is the type of a value, by the members of istio.policy.v1beta1.Value.
type Kind uint8

// The kinds of values. Unknown is of a value that this version cannot read: none of the members, or one from the future.
const (
	Unknown Kind = iota
	String
	Int64
	Double
	Bool
	IP
	Timestamp
	Duration
	Email
	DNSName
	URI
)

var kindNames = [...]string{"unknown", "string", "int64", "double", "bool", "IP address", "timestamp", "duration", "email address", "DNS name", "URI"}

// String returns the kind's name.
func (k Kind) String() string { return kindNames[k] }

func (k Kind) isText() bool { return k == String || k == Email || k == DNSName || k == URI }

// Value is one typed attribute value. It is small enough to pass by value.
type Value struct {
	kind  Kind
	nanos int32
	bits  uint64
	text  string
}

// OfText makes a value of one of the kinds that are texts: String, Email, DNSName, URI. Other kinds make an unknown value.
func OfText(kind Kind, text string) Value {
	if !kind.isText() {
		return Value{}
	}
	return Value{kind: kind, text: text}
}

// OfInt64 makes an integer value.
func OfInt64(v int64) Value { return Value{kind: Int64, bits: uint64(v)} }

// OfDouble makes a floating-point value.
func OfDouble(v float64) Value { return Value{kind: Double, bits: math.Float64bits(v)} }

// OfBool makes a boolean value.
func OfBool(v bool) Value {
	if v {
		return Value{kind: Bool, bits: 1}
	}
	return Value{kind: Bool}
}

// OfIP makes an address value from 4 or 16 bytes; other lengths make an unknown value.
func OfIP(raw string) Value {
	if len(raw) != net.IPv4len && len(raw) != net.IPv6len {
		return Value{}
	}
	return Value{kind: IP, text: raw}
}

// The years 1 to 9999, which is what protobuf's and RFC 3339's times can say, in Unix seconds.
const (
	minSeconds = -62135596800
	maxSeconds = 253402300799
)

// OfTimestamp makes a time value; a time outside the years 1 to 9999 makes an unknown value.
func OfTimestamp(seconds int64, nanos int32) Value {
	if seconds < minSeconds || seconds > maxSeconds || nanos < 0 || nanos >= int32(time.Second) {
		return Value{}
	}
	return Value{kind: Timestamp, bits: uint64(seconds), nanos: nanos}
}

// OfDuration makes a duration value; one that does not fit into 64 bits of nanoseconds makes an unknown value.
func OfDuration(seconds int64, nanos int32) Value {
	const most = math.MaxInt64/int64(time.Second) - 1
	if seconds > most || seconds < -most || nanos <= -int32(time.Second) || nanos >= int32(time.Second) {
		return Value{}
	}
	return Value{kind: Duration, bits: uint64(seconds*int64(time.Second) + int64(nanos))}
}

// Kind returns the value's type.
func (v Value) Kind() Kind { return v.kind }

// Text returns the text of a text value. It is false for every other kind, so that a number never equals a credential.
func (v Value) Text() (string, bool) {
	if !v.kind.isText() {
		return "", false
	}
	return v.text, true
}

// Int64 returns the value of an integer.
func (v Value) Int64() int64 { return int64(v.bits) }

// Double returns the value of a floating-point number.
func (v Value) Double() float64 { return math.Float64frombits(v.bits) }

// Bool returns the value of a boolean.
func (v Value) Bool() bool { return v.bits != 0 }

// IP returns the 4 or 16 bytes of an address.
func (v Value) IP() net.IP { return net.IP(v.text) }

// Addr returns the value of an address. An IPv4 address is one however many bytes it came in; other kinds give the zero Addr.
func (v Value) Addr() netip.Addr {
	if v.kind != IP {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice([]byte(v.text))
	return addr.Unmap()
}

// Time returns the value of a timestamp, in UTC.
func (v Value) Time() time.Time { return time.Unix(int64(v.bits), int64(v.nanos)).UTC() }

// Duration returns the value of a duration.
func (v Value) Duration() time.Duration { return time.Duration(v.bits) }

// Map is named values in wire order. A slice, because they are few.
type Map []Entry

// Entry is one named value.
type Entry struct {
	// Name is the map's key.
	Name string
	// Value is its value.
	Value Value
}

// Get returns the value with the given name; of several the last, as protobuf reads a map.
func (m Map) Get(name string) (Value, bool) {
	for _, entry := range slices.Backward(m) {
		if entry.Name == name {
			return entry.Value, true
		}
	}
	return Value{}, false
}

// ReadEntry reads an entry of a map<string, istio.policy.v1beta1.Value>.
func ReadEntry(r *wire.Reader, typ wire.Type) (entry Entry) {
	r.Fail(entry.parse(r.Text(typ)))
	return entry
}

// AppendEntry is ReadEntry for a reader of maps: it appends the entry.
func (m Map) AppendEntry(r *wire.Reader, typ wire.Type) Map {
	m = append(m, Entry{})
	r.Fail(m[len(m)-1].parse(r.Text(typ)))
	return m
}

func (e *Entry) parse(message string) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			e.Name = r.Text(typ)
		case 2:
			r.Fail(e.Value.parse(r.Text(typ)))
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}

// Read reads an istio.policy.v1beta1.Value. Of several members the last counts. A member that is not known leaves the kind
// unknown even beside a known one: which of the two the sender meant cannot be told.
func Read(r *wire.Reader, typ wire.Type) (value Value) {
	r.Fail(value.parse(r.Text(typ)))
	return value
}

// Parse is Read for the content of a field.
func Parse(message string) (value Value, err error) {
	err = value.parse(message)
	return value, err
}

// parse replaces v by the value that a message holds.
func (v *Value) parse(message string) error {
	stranger := false
	*v = Value{}
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			*v = OfText(String, r.Text(typ))
		case 2:
			*v = OfInt64(int64(r.Number(typ)))
		case 3:
			*v = OfDouble(math.Float64frombits(r.Number64(typ)))
		case 4:
			*v = OfBool(r.Number(typ) != 0)
		case 5:
			*v = OfIP(ReadWrapped(&r, typ))
		case 6:
			*v = ReadTimestamp(&r, typ)
		case 7:
			*v = readDuration(&r, typ)
		case 8:
			*v = OfText(Email, ReadWrapped(&r, typ))
		case 9:
			*v = OfText(DNSName, ReadWrapped(&r, typ))
		case 10:
			*v = OfText(URI, ReadWrapped(&r, typ))
		default:
			stranger = true
			r.Skip(typ)
		}
	}
	if stranger || r.Err() != nil {
		*v = Value{}
	}
	return r.Err()
}

// ReadTimestamp reads an istio.policy.v1beta1.TimeStamp, the type of templates' own time fields.
func ReadTimestamp(r *wire.Reader, typ wire.Type) Value {
	value, err := ParseTimestamp(r.Text(typ))
	r.Fail(err)
	return value
}

// ParseTimestamp is ReadTimestamp for the content of a field.
func ParseTimestamp(message string) (Value, error) {
	seconds, nanos, there, err := parseTime(message)
	if !there {
		return Value{}, err
	}
	return OfTimestamp(seconds, nanos), nil
}

func readDuration(r *wire.Reader, typ wire.Type) Value {
	seconds, nanos, there, err := parseTime(r.Text(typ))
	r.Fail(err)
	if !there {
		return Value{}
	}
	return OfDuration(seconds, nanos)
}

// ReadWrapped reads the messages whose one field is a string or bytes: IPAddress, EmailAddress, DNSName, Uri.
func ReadWrapped(r *wire.Reader, typ wire.Type) string {
	content, err := ParseWrapped(r.Text(typ))
	r.Fail(err)
	return content
}

// ParseWrapped is ReadWrapped for the content of a field.
func ParseWrapped(message string) (content string, err error) {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		if field == 1 {
			content = r.Text(typ)
		} else {
			r.Skip(typ)
		}
	}
	return content, r.Err()
}

// parseTime reads Istio's TimeStamp and Duration, which wrap protobuf's own. What comes in several parts is merged.
func parseTime(message string) (seconds int64, nanos int32, there bool, err error) {
	outer := wire.NewReader(message)
	for field, typ, ok := outer.Next(); ok; field, typ, ok = outer.Next() {
		if field != 1 {
			outer.Skip(typ)
			continue
		}
		there = true
		inner := wire.NewReader(outer.Text(typ))
		for field, typ, ok := inner.Next(); ok; field, typ, ok = inner.Next() {
			switch field {
			case 1:
				seconds = int64(inner.Number(typ))
			case 2:
				nanos = int32(inner.Number(typ)) //nolint:gosec // protobuf truncates an int32 field so
			default:
				inner.Skip(typ)
			}
		}
		outer.Fail(inner.Err())
	}
	return seconds, nanos, there && outer.Err() == nil, outer.Err()
}
