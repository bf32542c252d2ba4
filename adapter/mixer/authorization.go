package mixer

import (
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
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
// throughout or not decided at all. Nested messages are read in loops of their own: a callback for each field would cost the hot
// path an allocation a message.
func decodeAuthorization(message string) (c call, err error) {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			r.Fail(decodeInstance(r.Text(typ), &c.request))
		case 2:
			c.hasConfig = true
			r.Fail(decodeAny(r.Text(typ), &c))
		case 3:
			r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	return c, r.Err()
}

func decodeAny(message string, c *call) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			c.typeURL = r.Text(typ)
		case 2:
			c.params = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}

// instanceNameField is the number that Mixer gives the name in every template's InstanceMsg.
const instanceNameField = 72295727

func decodeInstance(message string, request *policy.Request) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			if request.Subject == nil {
				request.Subject = &policy.Subject{}
			}
			r.Fail(decodeSubject(r.Text(typ), request.Subject))
		case 2:
			if request.Action == nil {
				request.Action = &policy.Action{}
			}
			r.Fail(decodeAction(r.Text(typ), request.Action))
		case instanceNameField:
			request.Instance = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}

func decodeSubject(message string, subject *policy.Subject) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			subject.User = r.Text(typ)
		case 2:
			subject.Groups = r.Text(typ)
		case 3:
			subject.Properties = subject.Properties.AppendEntry(&r, typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}

func decodeAction(message string, action *policy.Action) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			action.Namespace = r.Text(typ)
		case 2:
			action.Service = r.Text(typ)
		case 3:
			action.Method = r.Text(typ)
		case 4:
			action.Path = r.Text(typ)
		case 5:
			action.Properties = action.Properties.AppendEntry(&r, typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}
