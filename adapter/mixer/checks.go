package mixer

import (
	"github.com/tollgate-mesh/tollgate/adapter/attribute"
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

// decodeCheck decodes the request of a check template, whose instance the given function decodes. Nested messages are read in loops
// of their own: a callback for each field would cost the hot path an allocation a message.
func decodeCheck(message string, instance func(instance string, request *policy.Request) error, c *call) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			r.Fail(instance(r.Text(typ), &c.request))
		case 2:
			c.hasConfig = true
			r.Fail(decodeAny(r.Text(typ), c))
		case 3:
			r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
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

// decodeAPIKey decodes an apikey.InstanceMsg.
func decodeAPIKey(message string, request *policy.Request) error {
	if request.API == nil {
		request.API = &policy.API{}
	}
	api := request.API
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			api.Name = r.Text(typ)
		case 2:
			api.Version = r.Text(typ)
		case 3:
			api.Operation = r.Text(typ)
		case 4:
			api.Key = r.Text(typ)
		case 5:
			time := attribute.ReadTimestamp(&r, typ)
			api.Time = &time
		case instanceNameField:
			request.Instance = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}

// decodeListEntry decodes a listentry.InstanceMsg. A value that comes twice, which Mixer never sends, is the last one.
func decodeListEntry(message string, request *policy.Request) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		switch field {
		case 1:
			value := attribute.Read(&r, typ)
			request.Value = &value
		case instanceNameField:
			request.Instance = r.Text(typ)
		default:
			r.Skip(typ)
		}
	}
	return r.Err()
}

// decodeNothing decodes a checknothing.InstanceMsg, which has no more than a name.
func decodeNothing(message string, request *policy.Request) error {
	r := wire.NewReader(message)
	for field, typ, ok := r.Next(); ok; field, typ, ok = r.Next() {
		if field == instanceNameField {
			request.Instance = r.Text(typ)
		} else {
			r.Skip(typ)
		}
	}
	return r.Err()
}
