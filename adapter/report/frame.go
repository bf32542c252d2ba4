package report

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// A frame's payload is one accepted call:
//
//	version  1 byte
//	kind     1 byte
//	origin   16 bytes: with the frame's sequence and the index of a record, the record's id
//	handler, caller, delivery: each a length as varint and so many bytes; delivery is a record.Delivery in wire form
//	instances: each a length as varint and so many bytes, to the end
//
// The queue's own checksum guards it, so decoding trusts lengths no further than the payload reaches.
const frameVersion = 1

const frameHeader = 2 + 16

// errFrame means that a payload was not made by this version.
var errFrame = errors.New("a spooled frame cannot be read")

func appendText(dst []byte, text string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(text)))
	return append(dst, text...)
}

// frameSize bounds the payload of a call.
func frameSize(call *Call) int {
	size := frameHeader + 3*binary.MaxVarintLen32 + len(call.Handler) + len(call.Caller) + len(call.Delivery)
	for _, instance := range call.Instances {
		size += binary.MaxVarintLen32 + len(instance)
	}
	return size
}

func appendFrame(dst []byte, call *Call, origin record.SpoolID) []byte {
	dst = append(dst, frameVersion, byte(call.Kind))
	dst = append(dst, origin[:]...)
	dst = appendText(dst, call.Handler)
	dst = appendText(dst, call.Caller)
	dst = appendText(dst, call.Delivery)
	for _, instance := range call.Instances {
		dst = appendText(dst, instance)
	}
	return dst
}

// DecodeFrame returns the records of a frame from a queue. Their texts are parts of one string. An error means that the frame was
// made by another version: it passed the queue's checksums.
func DecodeFrame(frame *spool.Frame) ([]record.Record, error) { return decodeFrame(frame) }

// DecodeDeadFrame returns the records of a dead letter that is a whole frame, as a lane makes them of frames that its version cannot
// read: such a letter has no kind and no spool. An error means that this version cannot read it either.
func DecodeDeadFrame(letter *record.Record) ([]record.Record, error) {
	if letter.Kind != 0 || letter.Spool != (record.SpoolID{}) {
		return nil, fmt.Errorf("%w: sequence %d is a single record", errFrame, letter.Sequence)
	}
	return decodePayload(&spool.Frame{Sequence: letter.Sequence, Arrival: letter.Arrived, Payload: []byte(letter.Raw)})
}

// decodeFrame returns a frame's records. Their texts are parts of one string.
func decodeFrame(frame *spool.Frame) ([]record.Record, error) {
	records, err := decodePayload(frame)
	if err == nil && len(records) != frame.Records {
		return nil, fmt.Errorf("%w: sequence %d has %d records, not %d", errFrame, frame.Sequence, len(records), frame.Records)
	}
	return records, err
}

// decodePayload takes the frame's number of records for no more than a hint.
func decodePayload(frame *spool.Frame) ([]record.Record, error) {
	if len(frame.Payload) < frameHeader || frame.Payload[0] != frameVersion {
		return nil, fmt.Errorf("%w: sequence %d", errFrame, frame.Sequence)
	}
	payload := string(frame.Payload)
	r := record.Record{
		Spool:    record.SpoolID(frame.Payload[2:frameHeader]),
		Sequence: frame.Sequence,
		Kind:     record.Kind(payload[1]),
		Arrived:  frame.Arrival,
	}
	records := make([]record.Record, 0, max(0, min(frame.Records, len(payload))))
	rest := payload[frameHeader:]
	next := func() (text string, ok bool) {
		size, n := uvarint(rest)
		if n <= 0 || size > uint64(len(rest)-n) { //nolint:gosec // n is at most what is left
			return "", false
		}
		text, rest = rest[n:n+int(size)], rest[n+int(size):] //nolint:gosec // and so is size
		return text, true
	}
	var delivery string
	for _, field := range []*string{&r.Handler, &r.Caller, &delivery} {
		text, ok := next()
		if !ok {
			return nil, fmt.Errorf("%w: sequence %d", errFrame, frame.Sequence)
		}
		*field = text
	}
	var err error
	if r.Delivery, err = record.ParseDelivery(delivery); err != nil {
		return nil, fmt.Errorf("%w: sequence %d: %w", errFrame, frame.Sequence, err)
	}
	for rest != "" {
		instance, ok := next()
		if !ok {
			return nil, fmt.Errorf("%w: sequence %d", errFrame, frame.Sequence)
		}
		r.Raw, r.Index = instance, len(records)
		records = append(records, r)
	}
	return records, nil
}

// uvarint is binary.Uvarint on a string.
func uvarint(s string) (value uint64, n int) {
	var head [binary.MaxVarintLen64]byte
	return binary.Uvarint(head[:copy(head[:], s)])
}
