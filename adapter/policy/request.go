package policy

import (
	"github.com/tollgate-mesh/tollgate/adapter/attribute"
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
	// Claims are those of the token that a check before this one verified, as encoding/json decodes them with numbers as
	// json.Number; nil where there is none. No check changes them.
	Claims map[string]any
}

// after returns the request as the checks after a verdict see it: with the claims that the verdict brought, unless an earlier
// one did. It is a copy then, since a check that ran out of time may still be reading the original.
func (r *Request) after(v Verdict) *Request {
	if v.Result != Passed || v.Claims == nil || r.Claims != nil {
		return r
	}
	copied := *r
	copied.Claims = v.Claims
	return &copied
}

// Subject is who asks.
type Subject struct {
	// User and Groups are as the instance has them; empty is the same as absent.
	User, Groups string
	// Properties are the further attributes.
	Properties attribute.Map
}

// Action is what is asked for.
type Action struct {
	// Namespace, Service, Method and Path are as the instance has them; empty is the same as absent.
	Namespace, Service, Method, Path string
	// Properties are the further attributes.
	Properties attribute.Map
}

// Property returns the value of the property that p names.
func (r *Request) Property(p config.Property) (attribute.Value, bool) {
	switch {
	case p.Action && r.Action != nil:
		return r.Action.Properties.Get(p.Name)
	case !p.Action && r.Subject != nil:
		return r.Subject.Properties.Get(p.Name)
	default:
		return attribute.Value{}, false
	}
}
