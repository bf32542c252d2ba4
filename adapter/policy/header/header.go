// Package header checks a property of the request against expected values.
package header

import (
	"context"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/credential"
	"github.com/tollgate-mesh/tollgate/config"
)

// Kind compiles header checks.
type Kind struct {
	// Secrets resolves the names in params.
	Secrets credential.Secrets
}

// Compile returns one check per configured property.
func (k Kind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	var (
		checks   []policy.Check
		problems config.Problems
	)
	for _, configured := range handler.Headers {
		c := &check{name: "header/" + configured.Name, property: configured.Property, digests: configured.Digests}
		var found config.Problems
		c.secrets, found = credential.Resolve(k.Secrets, "headers."+configured.Name+".secrets", configured.Secrets)
		checks, problems = append(checks, c), append(problems, found...)
	}
	return checks, problems
}

type check struct {
	name     string
	property config.Property
	digests  []config.Digest
	secrets  []credential.Named
}

// The reasons of header verdicts.
const (
	ReasonMatch    = "header_match"
	ReasonMismatch = "header_mismatch"
	ReasonMissing  = "header_missing"
)

func (c *check) Name() string { return c.name }

func (c *check) Cost() policy.Cost { return policy.Instant }

// Evaluate compares the digest of the presented value with every expected digest, without stopping at a match, so that the
// time taken tells nothing about the values. A value that already matches does not need a secret that is away.
func (c *check) Evaluate(_ context.Context, request *policy.Request) policy.Verdict {
	value, ok := request.Property(c.property)
	presented, isText := value.Text()
	switch {
	case !ok || isText && presented == "":
		return policy.Deny(ReasonMissing)
	case !isText:
		return policy.Deny(ReasonMismatch)
	}
	digest := credential.Digest(presented)
	secret, away := credential.FindSecret(digest, c.secrets)
	switch {
	case credential.Find(digest, c.digests) != credential.None, secret != credential.None:
		return policy.Pass(ReasonMatch)
	case away != nil:
		return policy.Failing(away)
	default:
		return policy.Deny(ReasonMismatch)
	}
}
