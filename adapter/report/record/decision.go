package record

import (
	"encoding/binary"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// Decision is a record of the decision log. Its texts are those that metrics and logs use.
type Decision struct {
	// ID is what a denied caller was told.
	ID string
	// Handler and Instance are who decided and on what.
	Handler, Instance string
	// Outcome is allow, deny, failed_open or failed_closed.
	Outcome string
	// Code is the answer's code by name.
	Code string
	// Check is the check that decided, Reason its reason.
	Check, Reason string
	// Class is the failure class; empty where nothing failed.
	Class string
	// Revision identifies the policy that decided.
	Revision string
	// Cached is whether the answer was remembered of an earlier request.
	Cached bool
	// Latency is how long the decision took.
	Latency time.Duration
	// Input is what was decided on, in JSON, and already masked: the rules of a handler's reports do not reach into it.
	Input string
	// Checks is what each check said, in JSON; empty where fewer than two were asked.
	Checks string
	// Shadow is what a candidate would have answered, in JSON; empty where the record is of the decision alone.
	Shadow string
}

// The wire form is a protobuf message like those of Mixer's templates, so that it can travel and be read as they are.
const (
	decisionID       = 1
	decisionHandler  = 2
	decisionOutcome  = 3
	decisionCode     = 4
	decisionCheck    = 5
	decisionReason   = 6
	decisionClass    = 7
	decisionRevision = 8
	decisionLatency  = 9 // nanoseconds
	decisionInput    = 10
	decisionCached   = 11
	decisionChecks   = 12
	decisionShadow   = 13
)

// Append appends the wire form, which is the Raw of a record of KindDecision.
func (d *Decision) Append(dst []byte) []byte {
	dst = appendText(dst, decisionID, d.ID)
	dst = appendText(dst, decisionHandler, d.Handler)
	dst = appendText(dst, decisionOutcome, d.Outcome)
	dst = appendText(dst, decisionCode, d.Code)
	dst = appendText(dst, decisionCheck, d.Check)
	dst = appendText(dst, decisionReason, d.Reason)
	dst = appendText(dst, decisionClass, d.Class)
	dst = appendText(dst, decisionRevision, d.Revision)
	if d.Latency != 0 {
		dst = binary.AppendUvarint(dst, decisionLatency<<3|uint64(wire.Varint))
		dst = binary.AppendUvarint(dst, uint64(d.Latency))
	}
	dst = appendText(dst, decisionInput, d.Input)
	if d.Cached {
		dst = append(dst, decisionCached<<3|byte(wire.Varint), 1)
	}
	dst = appendText(dst, decisionChecks, d.Checks)
	dst = appendText(dst, decisionShadow, d.Shadow)
	return appendText(dst, instanceName, d.Instance)
}

func appendText(dst []byte, field uint64, text string) []byte {
	if text == "" {
		return dst
	}
	return append(binary.AppendUvarint(binary.AppendUvarint(dst, field<<3|uint64(wire.Bytes)), uint64(len(text))), text...)
}

// DecodeDecision decodes a record of KindDecision.
func DecodeDecision(raw string) (d Decision, err error) {
	r := wire.NewReader(raw)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case decisionID:
			d.ID = r.Text(typ)
		case decisionHandler:
			d.Handler = r.Text(typ)
		case decisionOutcome:
			d.Outcome = r.Text(typ)
		case decisionCode:
			d.Code = r.Text(typ)
		case decisionCheck:
			d.Check = r.Text(typ)
		case decisionReason:
			d.Reason = r.Text(typ)
		case decisionClass:
			d.Class = r.Text(typ)
		case decisionRevision:
			d.Revision = r.Text(typ)
		case decisionLatency:
			d.Latency = time.Duration(r.Number(typ))
		case decisionInput:
			d.Input = r.Text(typ)
		case decisionCached:
			d.Cached = r.Number(typ) != 0
		case decisionChecks:
			d.Checks = r.Text(typ)
		case decisionShadow:
			d.Shadow = r.Text(typ)
		case instanceName:
			d.Instance = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	if r.Err() != nil {
		return Decision{}, malformed(KindDecision, &r)
	}
	return d, nil
}
