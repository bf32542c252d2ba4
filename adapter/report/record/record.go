// Package record holds what one report is, whatever sink it goes to: an instance of one of Mixer's report templates as it came over
// the wire, or a decision of the adapter's own, with who sent it, for which handler and when.
//
// A record keeps the wire's bytes. Sinks that write JSON lines take them straight to JSON (AppendJSON); others decode them into the
// type of their kind. docs/records.md describes both.
package record

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// ErrKind means that a record is of no kind that this version knows.
var ErrKind = errors.New("unknown kind of record")

// Kind says what a record is. Numbers and strings are stable: the numbers may be kept on a disk, the strings are in the JSON lines.
type Kind uint8

// The kinds of records: Mixer's report templates, and the decision log's own.
const (
	KindLogEntry  Kind = 1
	KindMetric    Kind = 2
	KindTraceSpan Kind = 3
	KindEdge      Kind = 4
	KindNothing   Kind = 5
	KindDecision  Kind = 6
)

var kindNames = [...]string{
	KindLogEntry: "logentry", KindMetric: "metric", KindTraceSpan: "tracespan", KindEdge: "edge", KindNothing: "reportnothing",
	KindDecision: "decision",
}

// Kinds returns all kinds in order.
func Kinds() []Kind {
	return []Kind{KindLogEntry, KindMetric, KindTraceSpan, KindEdge, KindNothing, KindDecision}
}

// ParseKind returns the kind with the given string.
func ParseKind(name string) (Kind, bool) {
	for _, kind := range Kinds() {
		if kindNames[kind] == name {
			return kind, true
		}
	}
	return 0, false
}

// String returns the template's name, or "decision".
func (k Kind) String() string {
	if int(k) < len(kindNames) && k > 0 {
		return kindNames[k]
	}
	return "unknown"
}

// SpoolID identifies the spool that accepted a record, as long as its process lives: the next process has another id for what it accepts.
type SpoolID [16]byte

// String returns the id in hexadecimal.
func (id SpoolID) String() string { return hex.EncodeToString(id[:]) }

// Record is one report. It is a value: it owns its memory, and nothing in it changes.
type Record struct {
	// Spool, Sequence and Index identify the record: the spool that accepted it, the call's place in the spool, and the
	// instance's place in the call. Whoever gets a record twice sees the same three twice.
	Spool    SpoolID
	Sequence uint64
	Index    int
	// Kind says how to read Raw.
	Kind Kind
	// Handler is the name of the handler it was sent to.
	Handler string
	// Caller is the identity of who sent it; empty where callers are not identified.
	Caller string
	// Arrived is when it was accepted.
	Arrived time.Time
	// Delivery is what the handler's configuration says about its delivery; nil for the defaults. Records of a call share it.
	Delivery *Delivery
	// Raw is the instance's InstanceMsg as it came, or a decision as Decision.Append writes it.
	Raw string
}

// ID returns the record's id, <spool>-<sequence>-<index>.
func (r *Record) ID() string { return string(r.appendID(nil)) }

func (r *Record) appendID(dst []byte) []byte {
	dst = append(hex.AppendEncode(dst, r.Spool[:]), '-')
	dst = append(strconv.AppendUint(dst, r.Sequence, 10), '-')
	return strconv.AppendInt(dst, int64(r.Index), 10)
}

// Check reports whether the wire form of a record is well-formed throughout. What it accepts can be decoded and written as JSON.
func Check(kind Kind, raw string) error {
	discard := room{discard: true}
	var err error
	switch kind {
	case KindLogEntry:
		_, err = decodeLogEntry(raw, discard)
	case KindMetric:
		_, err = decodeMetric(raw, discard)
	case KindTraceSpan:
		_, err = decodeTraceSpan(raw, discard)
	case KindEdge:
		_, err = DecodeEdge(raw)
	case KindNothing:
		_, err = DecodeNothing(raw)
	case KindDecision:
		_, err = DecodeDecision(raw)
	default:
		return fmt.Errorf("%w: %d", ErrKind, kind)
	}
	return err
}

// room is where a decoder puts the values it reads: the caller's memory as long as it suffices, or nowhere.
type room struct {
	first, second attribute.Map
	discard       bool
}

// entry reads a map's entry and adds it to values.
func (r *room) entry(values attribute.Map, in *wire.Reader, typ wire.Type) attribute.Map {
	if r.discard {
		attribute.ReadEntry(in, typ)
		return values
	}
	return values.AppendEntry(in, typ)
}
