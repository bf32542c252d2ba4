// Package wire reads protobuf messages field by field, without generated types.
//
// It reads from strings and hands out parts of them, so whatever it returns may be kept: strings cannot change. Whoever has the
// bytes in a buffer that is used again makes one string of them first.
//
// It accepts what the generated decoders of gogo/protobuf accept, overlong varints included, which Mixer sends.
package wire

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed means that bytes are no protobuf message of the expected shape.
var ErrMalformed = errors.New("malformed protobuf")

// Type is a wire type.
type Type uint8

// The wire types of protobuf. The two of groups have no name: Mixer's messages have none, and Skip passes over them.
const (
	Varint  Type = 0
	Fixed64 Type = 1
	Bytes   Type = 2
	Fixed32 Type = 5

	groupStart Type = 3
	groupEnd   Type = 4
)

// Reader walks over the fields of one message. The first error sticks: everything after it reads as zero.
type Reader struct {
	message string
	at      int // what has been read; moving on by a number costs no write barrier, which cutting the text would
	err     error
}

// NewReader returns a reader of a message.
func NewReader(message string) Reader { return Reader{message: message} }

// Err returns what was wrong with the message as far as it was read: ErrMalformed or nil.
func (r *Reader) Err() error { return r.err }

// Rest returns what has not been read yet. How much is left tells where in the message the reader stands.
func (r *Reader) Rest() string { return r.message[r.at:] }

// Fail makes an error found in a part of the message the reader's own. Nil, and any error after the first, change nothing.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Next returns the next field's number and wire type, and false at the end of the message or at an error.
func (r *Reader) Next() (field int32, typ Type, ok bool) {
	if r.at >= len(r.message) || r.err != nil {
		return 0, 0, false
	}
	tag := uint64(r.message[r.at])
	if tag < 0x80 {
		r.at++
	} else {
		tag = r.longVarint()
	}
	field, typ = int32(tag>>3), Type(tag&7) //nolint:gosec // wraps as gogo's decoders do; what turns out zero or negative is refused below
	if field <= 0 || typ == groupEnd {
		r.err = ErrMalformed
	}
	return field, typ, r.err == nil
}

func (r *Reader) varint() uint64 {
	if r.at < len(r.message) && r.message[r.at] < 0x80 && r.err == nil { // nearly all of them
		v := uint64(r.message[r.at])
		r.at++
		return v
	}
	return r.longVarint()
}

func (r *Reader) longVarint() (v uint64) {
	for shift := uint(0); shift < 64; shift += 7 {
		if r.at >= len(r.message) || r.err != nil {
			break
		}
		b := r.message[r.at]
		r.at++
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	r.err = ErrMalformed
	return 0
}

func (r *Reader) take(size uint64) string {
	rest := r.message[r.at:]
	if r.err != nil || size > uint64(len(rest)) {
		r.err = ErrMalformed
		return ""
	}
	r.at += int(size) //nolint:gosec // at most what is left
	return rest[:size]
}

// declared notes an error unless a field has the wire type of its declaration.
func (r *Reader) declared(typ, want Type) bool {
	if typ != want {
		r.err = ErrMalformed
	}
	return r.err == nil
}

// Text returns the content of a field that is declared as string, bytes or message.
func (r *Reader) Text(typ Type) string {
	if !r.declared(typ, Bytes) {
		return ""
	}
	return r.take(r.varint())
}

// Number returns the content of a field that is declared as an integer or bool.
func (r *Reader) Number(typ Type) uint64 {
	if !r.declared(typ, Varint) {
		return 0
	}
	return r.varint()
}

// Number64 returns the content of a field that is declared as fixed64 or double.
func (r *Reader) Number64(typ Type) uint64 {
	if !r.declared(typ, Fixed64) {
		return 0
	}
	content := r.take(8)
	if content == "" {
		return 0
	}
	return binary.LittleEndian.Uint64([]byte(content))
}

// Skip passes over a field that is not known.
func (r *Reader) Skip(typ Type) {
	depth := 0
	for {
		switch typ {
		case Varint:
			r.varint()
		case Fixed64:
			r.take(8)
		case Bytes:
			r.take(r.varint())
		case groupStart:
			depth++
		case groupEnd:
			if depth--; depth < 0 {
				r.err = ErrMalformed
			}
		case Fixed32:
			r.take(4)
		default:
			r.err = ErrMalformed
		}
		if depth == 0 || r.err != nil {
			return
		}
		typ = Type(r.varint() & 7)
	}
}
