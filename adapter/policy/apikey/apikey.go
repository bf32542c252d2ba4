// Package apikey checks that the caller presents a known API key, and finds out whose it is.
package apikey

import (
	"context"
	"fmt"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/credential"
	"github.com/tollgate-mesh/tollgate/config"
)

// Kind compiles API key checks.
type Kind struct {
	// Secrets resolves the names in params.
	Secrets credential.Secrets
}

// Compile returns one check for each that the handler configures.
func (k Kind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	var (
		checks   []policy.Check
		problems config.Problems
	)
	for i, configured := range handler.APIKeys {
		c := &check{name: "apikey/" + configured.Name, property: configured.Property, keys: configured.Keys}
		for _, key := range configured.Keys {
			c.digests = append(c.digests, key.Digest)
		}
		var found config.Problems
		c.secrets, found = credential.Resolve(k.Secrets, fmt.Sprintf("api_keys[%d].secrets", i), configured.Secrets)
		checks, problems = append(checks, c), append(problems, found...)
	}
	return checks, problems
}

type check struct {
	name     string
	property config.Property
	keys     []config.APIKey
	// digests are those of the keys.
	digests []config.Digest
	secrets []credential.Named
}

// The reasons of API key verdicts.
const (
	ReasonKnown   = "api_key_known"
	ReasonUnknown = "api_key_unknown"
	ReasonMissing = "api_key_missing"
)

func (c *check) Name() string { return c.name }

func (c *check) Cost() policy.Cost { return policy.Instant }

// Evaluate compares the digest of the presented key with that of every known one, without stopping at a match, so that the time
// taken tells nothing about the keys. A key that is known by its digest does not need a secret that is away.
func (c *check) Evaluate(_ context.Context, request *policy.Request) policy.Verdict {
	presented, ok := c.presented(request)
	if !ok || presented == "" {
		return policy.Deny(ReasonMissing)
	}
	digest := credential.Digest(presented)
	key := credential.Find(digest, c.digests)
	secret, away := credential.FindSecret(digest, c.secrets)
	switch {
	case key != credential.None:
		return known(c.keys[key].Identity)
	case secret != credential.None:
		return known(c.secrets[secret].Name)
	case away != nil:
		return policy.Failing(away)
	default:
		return policy.Deny(ReasonUnknown)
	}
}

// presented returns the text that the caller presents as its key. A value of another kind than text is no key.
func (c *check) presented(request *policy.Request) (string, bool) {
	if c.property.Name == "" {
		if request.API == nil {
			return "", false
		}
		return request.API.Key, true
	}
	value, ok := request.Property(c.property)
	if !ok {
		return "", false
	}
	return value.Text()
}

func known(identity string) policy.Verdict {
	v := policy.Pass(ReasonKnown)
	v.Identity = identity
	return v
}
