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
	// API is the API call in question; nil where the instance is about none.
	API *API
	// Value is what a list is asked about; nil where the instance has none.
	Value *attribute.Value
	// Quota is what a quota call asks for; nil where the call is a check.
	Quota *Quota
	// Claims are those of the token that a check before this one verified, as encoding/json decodes them with numbers as
	// json.Number; nil where there is none. No check changes them.
	Claims map[string]any
	// Identity is whose API key a check before this one accepted; empty where none did.
	Identity string
}

// after returns the request as the checks after a verdict see it: with the claims and the identity that the verdict brought, unless
// an earlier one did. It is a copy then, since a check that ran out of time may still be reading the original.
func (r *Request) after(v Verdict) *Request {
	claims := v.Claims != nil && r.Claims == nil
	identity := v.Identity != "" && r.Identity == ""
	if v.Result != Passed || !claims && !identity {
		return r
	}
	copied := *r
	if claims {
		copied.Claims = v.Claims
	}
	if identity {
		copied.Identity = v.Identity
	}
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

// API is a call of an API with the key that the caller presents.
type API struct {
	// Name, Version and Operation are as the instance has them; empty is the same as absent.
	Name, Version, Operation string
	// Key is what the caller presents as its key: a credential.
	Key string
	// Time is when the call was made; nil where the instance does not say.
	Time *attribute.Value
}

// Quota is an amount that is asked for.
type Quota struct {
	// Dimensions tell one count from another.
	Dimensions attribute.Map
	// Amount is how much is asked for. Nobody promises that it is positive.
	Amount int64
	// BestEffort means that less will do. Else it is all or nothing.
	BestEffort bool
	// DedupID is the same in calls that repeat one another; not unique over time, and empty where the caller has none.
	DedupID string
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
