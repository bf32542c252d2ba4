// Package apikey checks that the caller presents a known API key, and finds out whose it is.
package apikey

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
	// Digests returns the SHA-256 digests of the keys that are valid now, at least one, or an error that says why there are none
	// and shows none.
	Digests() ([]config.Digest, error)
}

// Kind compiles API key checks.
type Kind struct {
	// Secrets resolves the names in params.
	Secrets Secrets
}

// Compile returns one check for each that the handler configures.
func (k Kind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	var (
		checks   []policy.Check
		problems config.Problems
	)
	for i, configured := range handler.APIKeys {
		c := &check{name: "apikey/" + configured.Name, property: configured.Property, keys: configured.Keys}
		for _, name := range configured.Secrets {
			secret, ok := k.Secrets.Secret(name)
			if !ok {
				problems = append(problems, config.Problem{
					Field: fmt.Sprintf("api_keys[%d].secrets", i),
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
	keys     []config.APIKey
	secrets  []named
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
	digest := sha256.Sum256([]byte(presented))
	const nobody = -1
	key := nobody
	for i := range c.keys {
		key = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], c.keys[i].Digest[:]), i, key)
	}
	secret := nobody
	var away *policy.Failure
	for i, n := range c.secrets {
		digests, err := n.secret.Digests()
		if err != nil {
			away = policy.Fail(config.DependencyDown, "secret %q: %v", n.name, err)
			continue
		}
		for j := range digests {
			secret = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], digests[j][:]), i, secret)
		}
	}
	switch {
	case key != nobody:
		return known(c.keys[key].Identity)
	case secret != nobody:
		return known(c.secrets[secret].name)
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
