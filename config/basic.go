package config

import (
	"fmt"

	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// BasicCheck passes when a property has the name and the password of a user.
type BasicCheck struct {
	// Name labels the check.
	Name string
	// Property has the value of the authorization header.
	Property Property
	// Users names the htpasswd file.
	Users string
	// Realm is what a denied caller is to authenticate for; empty to leave the handler's denial as it is.
	Realm string
}

// MaxBasicChecks bounds the checks of a handler.
const MaxBasicChecks = 16

const maxUsersNameBytes = 63

func basicChecks(problems *Problems, params []*configpb.BasicCheck) []BasicCheck {
	if len(params) > MaxBasicChecks {
		problems.add("basic", "has %d checks; use at most %d", len(params), MaxBasicChecks)
		return nil
	}
	var checks []BasicCheck
	for i, check := range params {
		checks = append(checks, basicCheck(problems, fmt.Sprintf("basic[%d]", i), check))
	}
	return checks
}

func basicCheck(problems *Problems, field string, params *configpb.BasicCheck) BasicCheck {
	check := BasicCheck{
		Property: property(problems, field, params.SubjectProperty, params.ActionProperty),
		Users:    params.GetUsers(),
		Realm:    realm(problems, field+".www_authenticate", params.GetWwwAuthenticate()),
	}
	check.Name = name(problems, field+".name", params.GetName(), label(check.Property.Name))
	switch {
	case check.Users == "":
		problems.add(field+".users", "is missing; name an htpasswd file from the adapter's settings")
	case len(check.Users) > maxUsersNameBytes:
		problems.add(field+".users", "has %d bytes; use at most %d", len(check.Users), maxUsersNameBytes)
	}
	return check
}
