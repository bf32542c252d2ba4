package mixer

import (
	"encoding/binary"
	"errors"
)

// errWire means that bytes are no protobuf message of the expected shape.
var errWire = errors.New("malformed protobuf")

// The wire types of protobuf.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wireGroup  = 3
	wireEnd    = 4
	wire32     = 5
)

// reader walks over the fields of one message. It reads a string and hands out parts of it, so whatever it returns may be kept:
// strings cannot change, and this one was copied from gRPC's buffer once.
//
// It accepts what the generated decoder of gogo/protobuf accepts, overlong varints included, which Mixer sends.
type reader struct {
	rest string
	err  error
}

// next returns the next field's number and wire type, and false at the end of the message or at an error.
func (r *reader) next() (field int32, wire uint8, ok bool) {
	if r.rest == "" || r.err != nil {
		return 0, 0, false
	}
	tag := r.varint()
	field, wire = int32(tag>>3), uint8(tag&7) //nolint:gosec // a number out of range turns negative and is refused below
	if field <= 0 || wire == wireEnd {
		r.err = errWire
	}
	return field, wire, r.err == nil
}

func (r *reader) varint() (v uint64) {
	for shift := uint(0); shift < 64; shift += 7 {
		if r.rest == "" || r.err != nil {
			break
		}
		b := r.rest[0]
		r.rest = r.rest[1:]
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	r.err = errWire
	return 0
}

// bytes returns the content of a length-delimited field.
func (r *reader) bytes() string {
	size := r.varint()
	if r.err != nil || size > uint64(len(r.rest)) {
		r.err = errWire
		return ""
	}
	content := r.rest[:size]
	r.rest = r.rest[size:]
	return content
}

func (r *reader) fixed64() uint64 {
	content := r.fixed(8)
	if content == "" {
		return 0
	}
	return binary.LittleEndian.Uint64([]byte(content))
}

func (r *reader) fixed(size int) string {
	if r.err != nil || len(r.rest) < size {
		r.err = errWire
		return ""
	}
	content := r.rest[:size]
	r.rest = r.rest[size:]
	return content
}

// want notes an error unless a field has the wire type of its declaration.
func (r *reader) want(wire, declared uint8) bool {
	if wire != declared {
		r.err = errWire
	}
	return r.err == nil
}

// text returns the content of a field that is declared as string, bytes or message.
func (r *reader) text(wire uint8) string {
	if !r.want(wire, wireBytes) {
		return ""
	}
	return r.bytes()
}

// number returns the content of a field that is declared as an integer or bool.
func (r *reader) number(wire uint8) uint64 {
	if !r.want(wire, wireVarint) {
		return 0
	}
	return r.varint()
}

// skip passes over a field that is not known.
func (r *reader) skip(wire uint8) {
	depth := 0
	for {
		switch wire {
		case wireVarint:
			r.varint()
		case wire64:
			r.fixed(8)
		case wireBytes:
			r.bytes()
		case wireGroup:
			depth++
		case wireEnd:
			if depth--; depth < 0 {
				r.err = errWire
			}
		case wire32:
			r.fixed(4)
		default:
			r.err = errWire
		}
		if depth == 0 || r.err != nil {
			return
		}
		wire = uint8(r.varint() & 7)
	}
}
