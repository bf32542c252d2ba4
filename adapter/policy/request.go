package policy

import (
	"math"
	"net"
	"slices"
	"time"

	"github.com/tollgate-mesh/tollgate/config"
)

// Request is what a decision is asked about. It owns all its memory and is not changed after the door built it.
type Request struct {
	// Instance is the full name of the Mixer instance.
	Instance string
	// Subject is nil where the instance has none.
	Subject *Subject
	// Action is nil where the instance has none.
	Action *Action
}

// Subject is who asks.
type Subject struct {
	// User and Groups are as the instance has them; empty is the same as absent.
	User, Groups string
	// Properties are the further attributes.
	Properties Properties
}

// Action is what is asked for.
type Action struct {
	// Namespace, Service, Method and Path are as the instance has them; empty is the same as absent.
	Namespace, Service, Method, Path string
	// Properties are the further attributes.
	Properties Properties
}

// Property returns the value of the property that p names.
func (r *Request) Property(p config.Property) (Value, bool) {
	switch {
	case p.Action && r.Action != nil:
		return r.Action.Properties.Get(p.Name)
	case !p.Action && r.Subject != nil:
		return r.Subject.Properties.Get(p.Name)
	default:
		return Value{}, false
	}
}

// Properties are named values in wire order. A slice, because they are few.
type Properties []NamedValue

// NamedValue is one property.
type NamedValue struct {
	// Name is the property's key.
	Name string
	// Value is its value.
	Value Value
}

// Get returns the value with the given name; of several the last, as protobuf reads a map.
func (p Properties) Get(name string) (Value, bool) {
	for _, property := range slices.Backward(p) {
		if property.Name == name {
			return property.Value, true
		}
	}
	return Value{}, false
}

// ValueKind is the type of a value, by the members of istio.policy.v1beta1.Value.
type ValueKind uint8

// The kinds of values. The zero kind is of a value that this version cannot read: none of the members, or one from the future.
const (
	UnknownValue ValueKind = iota
	StringValue
	Int64Value
	DoubleValue
	BoolValue
	IPValue
	TimestampValue
	DurationValue
	EmailValue
	DNSNameValue
	URIValue
)

var valueKindNames = [...]string{"unknown", "string", "int64", "double", "bool", "IP address", "timestamp", "duration", "email address", "DNS name", "URI"}

// String returns the kind's name.
func (k ValueKind) String() string { return valueKindNames[k] }

func (k ValueKind) isText() bool {
	return k == StringValue || k == EmailValue || k == DNSNameValue || k == URIValue
}

// Value is one typed attribute value. It is small enough to pass by value.
type Value struct {
	kind  ValueKind
	nanos int32
	bits  uint64
	text  string
}

// TextValue makes a value of one of the kinds that are texts: string, email address, DNS name, URI.
func TextValue(kind ValueKind, text string) Value {
	if !kind.isText() {
		return Value{}
	}
	return Value{kind: kind, text: text}
}

// Int64 makes an integer value.
func Int64(v int64) Value { return Value{kind: Int64Value, bits: uint64(v)} }

// Double makes a floating-point value.
func Double(v float64) Value { return Value{kind: DoubleValue, bits: math.Float64bits(v)} }

// Bool makes a boolean value.
func Bool(v bool) Value {
	if v {
		return Value{kind: BoolValue, bits: 1}
	}
	return Value{kind: BoolValue}
}

// IP makes an address value from 4 or 16 bytes; other lengths make an unknown value.
func IP(raw string) Value {
	if len(raw) != net.IPv4len && len(raw) != net.IPv6len {
		return Value{}
	}
	return Value{kind: IPValue, text: raw}
}

// Timestamp makes a time value; nanoseconds out of range make an unknown value.
func Timestamp(seconds int64, nanos int32) Value {
	if nanos < 0 || nanos >= int32(time.Second) {
		return Value{}
	}
	return Value{kind: TimestampValue, bits: uint64(seconds), nanos: nanos}
}

// Duration makes a duration value; one that does not fit into 64 bits of nanoseconds makes an unknown value.
func Duration(seconds int64, nanos int32) Value {
	const most = math.MaxInt64/int64(time.Second) - 1
	if seconds > most || seconds < -most || nanos <= -int32(time.Second) || nanos >= int32(time.Second) {
		return Value{}
	}
	return Value{kind: DurationValue, bits: uint64(seconds*int64(time.Second) + int64(nanos))}
}

// Kind returns the value's type.
func (v Value) Kind() ValueKind { return v.kind }

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

// Time returns the value of a timestamp, in UTC.
func (v Value) Time() time.Time { return time.Unix(int64(v.bits), int64(v.nanos)).UTC() }

// Duration returns the value of a duration.
func (v Value) Duration() time.Duration { return time.Duration(v.bits) }
