// Package credential compares what callers present with digests and with named secrets.
package credential

import (
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

// Named is a secret with its name.
type Named struct {
	Name string
	Secret
}

// Resolve returns the secrets of the given names, and a problem of the field for each that there is not.
func Resolve(secrets Secrets, field string, names []string) (found []Named, problems config.Problems) {
	for _, name := range names {
		secret, ok := secrets.Secret(name)
		if !ok {
			problems = append(problems, config.Problem{
				Field: field,
				Text:  fmt.Sprintf("names %.64q, which the adapter's settings do not define; add it under secrets or correct the name", name),
			})
			continue
		}
		found = append(found, Named{name, secret})
	}
	return found, problems
}

// Digest returns what presented texts are compared by.
func Digest(presented string) config.Digest { return sha256.Sum256([]byte(presented)) }

// None is the index of nothing.
const None = -1

// Find returns the index of a digest among others, the last of several, or None. It does not stop at a match, so that the time taken
// tells nothing about the others.
func Find(digest config.Digest, others []config.Digest) int {
	found := None
	for i := range others {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], others[i][:]), i, found)
	}
	return found
}

// FindSecret returns the index of a secret that has the digest, the last of several, or None with the failure of one that is away.
func FindSecret(digest config.Digest, secrets []Named) (found int, away *policy.Failure) {
	found = None
	for i, s := range secrets {
		digests, err := s.Digests()
		if err != nil {
			away = policy.Fail(config.DependencyDown, "secret %q: %v", s.Name, err)
			continue
		}
		if Find(digest, digests) != None {
			found = i
		}
	}
	if found != None {
		away = nil
	}
	return found, away
}
