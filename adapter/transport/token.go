package transport

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

// verifier believes the access tokens of one issuer.
type verifier struct {
	issuer     string
	audiences  []string
	algorithms []string
	leeway     time.Duration
	keys       *issuerKeys
	now        func() time.Time

	// believed are tokens whose signature was verified, by their digest: a caller sends the same one with every call.
	believed *lru.Cache[[sha256.Size]byte, belief]
}

// belief holds until the token expires or the keys change.
type belief struct {
	keys    *jwt.Keys
	expires time.Time
}

const maxBelieved = 1024

func newVerifier(s *settings.JWT, keys *issuerKeys) *verifier {
	v := &verifier{issuer: s.Issuer, audiences: s.Audiences, algorithms: s.Algorithms, leeway: s.Leeway, keys: keys, now: time.Now}
	v.believed, _ = lru.New[[sha256.Size]byte, belief](maxBelieved) // the only error is a size below one
	return v
}

// verify returns why a token is not believed; nil where it is.
func (v *verifier) verify(ctx context.Context, text string) *Refusal {
	keys := v.keys.current()
	digest := sha256.Sum256([]byte(text))
	if b, ok := v.believed.Get(digest); ok && keys != nil && b.keys == keys {
		return v.expired(b.expires)
	}
	if strings.Count(text, ".") != 2 {
		return &Refusal{Reason: WrongCredential, Detail: "the bearer token is neither in a secret nor a JWT"}
	}
	token, err := jwt.Parse(text)
	if err != nil {
		return &Refusal{Reason: InvalidToken, Detail: "the token " + err.Error()}
	}
	if token.Issuer != v.issuer { // it is another's, and not for us to look for its key
		return &Refusal{Reason: InvalidToken, Detail: fmt.Sprintf("the token's issuer is %.200q", token.Issuer)}
	}
	if !slices.Contains(v.algorithms, token.Algorithm) {
		return &Refusal{Reason: InvalidToken, Detail: fmt.Sprintf("the token is signed with %.20q; algorithms has %q", token.Algorithm, v.algorithms)}
	}
	reason := jwt.ReasonUnknownKey
	if keys != nil {
		reason = keys.Verify(token)
	}
	if reason == jwt.ReasonUnknownKey || reason == jwt.ReasonAlgorithm {
		v.keys.renew(ctx)
		if keys = v.keys.current(); keys == nil {
			return &Refusal{Reason: KeysUnavailable, Detail: "the issuer's keys could not be fetched yet"}
		}
		reason = keys.Verify(token)
	}
	switch reason {
	case "":
	case jwt.ReasonUnknownKey, jwt.ReasonAlgorithm:
		return &Refusal{Reason: InvalidToken, Detail: fmt.Sprintf("the issuer has no key %.100q for %s", token.KeyID, token.Algorithm)}
	default:
		return &Refusal{Reason: InvalidToken, Detail: "the token's signature is wrong"}
	}
	if refusal := v.check(token); refusal != nil {
		return refusal
	}
	v.believed.Add(digest, belief{keys, token.Expires})
	return nil
}

// check returns why a token's other claims do not do.
func (v *verifier) check(token *jwt.Token) *Refusal {
	switch {
	case !slices.ContainsFunc(token.Audiences, func(a string) bool { return slices.Contains(v.audiences, a) }):
		return &Refusal{Reason: InvalidToken, Detail: fmt.Sprintf("the token is for %.200q", token.Audiences)}
	case token.Expires.IsZero():
		return &Refusal{Reason: InvalidToken, Detail: "the token does not say when it expires"}
	case v.now().Add(v.leeway).Before(token.NotBefore):
		return &Refusal{Reason: InvalidToken, Detail: "the token is not valid before " + token.NotBefore.UTC().Format(time.RFC3339)}
	default:
		return v.expired(token.Expires)
	}
}

func (v *verifier) expired(expires time.Time) *Refusal {
	if v.now().Before(expires.Add(v.leeway)) {
		return nil
	}
	return &Refusal{Reason: TokenExpired, Detail: "the token expired on " + expires.UTC().Format(time.RFC3339)}
}
