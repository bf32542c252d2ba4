package mixer

import (
	"math"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
)

// call is what every check template's request has in common, once decoded.
type call struct {
	// hasConfig tells an absent adapter_config from an empty one.
	hasConfig bool
	// typeURL and params are adapter_config's.
	typeURL, params string
	// request is what to decide about.
	request policy.Request
}

// decodeAuthorization decodes an authorization.HandleAuthorizationRequest. It reads every field, so that a call is well-formed
// throughout or not decided at all.
func decodeAuthorization(message string) (c call, err error) {
	r := reader{rest: message}
	for field, wire, ok := r.next(); ok; field, wire, ok = r.next() {
		switch field {
		case 1:
			decodeInstance(&r, r.text(wire), &c.request)
		case 2:
			c.hasConfig = true
			decodeAny(&r, r.text(wire), &c)
		case 3:
			r.text(wire)
		default:
			r.skip(wire)
		}
	}
	return c, r.err
}

// inside decodes a nested message and hands its error on to the outer one.
func inside(outer *reader, message string, decode func(r *reader, field int32, wire uint8)) {
	if outer.err != nil {
		return
	}
	r := reader{rest: message}
	for field, wire, ok := r.next(); ok; field, wire, ok = r.next() {
		decode(&r, field, wire)
	}
	outer.err = r.err
}

func decodeAny(outer *reader, message string, c *call) {
	inside(outer, message, func(r *reader, field int32, wire uint8) {
		switch field {
		case 1:
			c.typeURL = r.text(wire)
		case 2:
			c.params = r.text(wire)
		default:
			r.skip(wire)
		}
	})
}

// instanceNameField is the number that Mixer gives the name in every template's InstanceMsg.
const instanceNameField = 72295727

func decodeInstance(outer *reader, message string, request *policy.Request) {
	inside(outer, message, func(r *reader, field int32, wire uint8) {
		switch field {
		case 1:
			if request.Subject == nil {
				request.Subject = &policy.Subject{}
			}
			decodeSubject(r, r.text(wire), request.Subject)
		case 2:
			if request.Action == nil {
				request.Action = &policy.Action{}
			}
			decodeAction(r, r.text(wire), request.Action)
		case instanceNameField:
			request.Instance = r.text(wire)
		default:
			r.skip(wire)
		}
	})
}

func decodeSubject(outer *reader, message string, subject *policy.Subject) {
	inside(outer, message, func(r *reader, field int32, wire uint8) {
		switch field {
		case 1:
			subject.User = r.text(wire)
		case 2:
			subject.Groups = r.text(wire)
		case 3:
			subject.Properties = append(subject.Properties, decodeProperty(r, r.text(wire)))
		default:
			r.skip(wire)
		}
	})
}

func decodeAction(outer *reader, message string, action *policy.Action) {
	inside(outer, message, func(r *reader, field int32, wire uint8) {
		switch field {
		case 1:
			action.Namespace = r.text(wire)
		case 2:
			action.Service = r.text(wire)
		case 3:
			action.Method = r.text(wire)
		case 4:
			action.Path = r.text(wire)
		case 5:
			action.Properties = append(action.Properties, decodeProperty(r, r.text(wire)))
		default:
			r.skip(wire)
		}
	})
}

// decodeProperty decodes an entry of map<string, istio.policy.v1beta1.Value>.
func decodeProperty(outer *reader, message string) (property policy.NamedValue) {
	inside(outer, message, func(r *reader, field int32, wire uint8) {
		switch field {
		case 1:
			property.Name = r.text(wire)
		case 2:
			property.Value = decodeValue(r, r.text(wire))
		default:
			r.skip(wire)
		}
	})
	return property
}

// decodeValue decodes an istio.policy.v1beta1.Value. Of several members the last counts. A member that is not known leaves the
// kind unknown even beside a known one: which of the two the sender meant cannot be told.
func decodeValue(outer *reader, message string) (value policy.Value) {
	stranger := false
	inside(outer, message, func(r *reader, field int32, wire uint8) {
		switch field {
		case 1:
			value = policy.TextValue(policy.StringValue, r.text(wire))
		case 2:
			value = policy.Int64(int64(r.number(wire)))
		case 3:
			if r.want(wire, wire64) {
				value = policy.Double(math.Float64frombits(r.fixed64()))
			}
		case 4:
			value = policy.Bool(r.number(wire) != 0)
		case 5:
			value = policy.IP(decodeWrapped(r, r.text(wire)))
		case 6:
			value = decodeTime(r, r.text(wire), policy.Timestamp)
		case 7:
			value = decodeTime(r, r.text(wire), policy.Duration)
		case 8:
			value = policy.TextValue(policy.EmailValue, decodeWrapped(r, r.text(wire)))
		case 9:
			value = policy.TextValue(policy.DNSNameValue, decodeWrapped(r, r.text(wire)))
		case 10:
			value = policy.TextValue(policy.URIValue, decodeWrapped(r, r.text(wire)))
		default:
			stranger = true
			r.skip(wire)
		}
	})
	if stranger {
		return policy.Value{}
	}
	return value
}

// decodeWrapped decodes the messages whose one field is a string or bytes: IPAddress, EmailAddress, DNSName, Uri.
func decodeWrapped(outer *reader, message string) (content string) {
	inside(outer, message, func(r *reader, field int32, wire uint8) {
		if field != 1 {
			r.skip(wire)
			return
		}
		content = r.text(wire)
	})
	return content
}

// decodeTime decodes Istio's TimeStamp and Duration, which wrap protobuf's own.
func decodeTime(outer *reader, message string, build func(seconds int64, nanos int32) policy.Value) policy.Value {
	var (
		seconds int64
		nanos   int32
		there   bool
	)
	inside(outer, message, func(r *reader, field int32, wire uint8) {
		if field != 1 {
			r.skip(wire)
			return
		}
		there = true
		inside(r, r.text(wire), func(r *reader, field int32, wire uint8) {
			switch field {
			case 1:
				seconds = int64(r.number(wire))
			case 2:
				nanos = int32(r.number(wire)) //nolint:gosec // protobuf truncates an int32 field so
			default:
				r.skip(wire)
			}
		})
	})
	if !there {
		return policy.Value{}
	}
	return build(seconds, nanos)
}
