// Package header checks a property of the request against expected values.
package header

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Secrets gives the current values of named secrets.
type Secrets interface {
	// Secret returns the named secret, and false where the settings define none of that name.
	Secret(name string) (Secret, bool)
}

// Secret is one named secret. What it holds changes when its source does.
type Secret interface {
	// Digests returns the SHA-256 digests of the values that are valid now, at least one, or an error that says why there are
	// none and shows none.
	Digests() ([]config.Digest, error)
}

// Kind compiles header checks.
type Kind struct {
	// Secrets resolves the names in params.
	Secrets Secrets
}

// Compile returns one check per configured property.
func (k Kind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	var (
		checks   []policy.Check
		problems config.Problems
	)
	for _, configured := range handler.Headers {
		c := &check{name: "header/" + configured.Name, property: configured.Property, digests: configured.Digests}
		for _, name := range configured.Secrets {
			secret, ok := k.Secrets.Secret(name)
			if !ok {
				problems = append(problems, config.Problem{
					Field: "headers." + configured.Name + ".secrets",
					Text:  fmt.Sprintf("names %.64q, which the adapter's settings do not define; add it under secrets or correct the name", name),
				})
				continue
			}
			c.secrets = append(c.secrets, named{name, secret})
		}
		checks = append(checks, c)
	}
	return checks, problems
}

type named struct {
	name   string
	secret Secret
}

type check struct {
	name     string
	property config.Property
	digests  []config.Digest
	secrets  []named
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
	digest := sha256.Sum256([]byte(presented))
	match := equalsAny(&digest, c.digests)
	var away *policy.Failure
	for _, n := range c.secrets {
		digests, err := n.secret.Digests()
		if err != nil {
			away = policy.Fail(config.DependencyDown, "secret %q: %v", n.name, err)
			continue
		}
		match |= equalsAny(&digest, digests)
	}
	switch {
	case match == 1:
		return policy.Pass(ReasonMatch)
	case away != nil:
		return policy.Failing(away)
	default:
		return policy.Deny(ReasonMismatch)
	}
}

func equalsAny(digest *[sha256.Size]byte, expected []config.Digest) int {
	match := 0
	for i := range expected {
		match |= subtle.ConstantTimeCompare(digest[:], expected[i][:])
	}
	return match
}
