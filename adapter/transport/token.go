package transport

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

// verifier believes the access tokens of one issuer.
type verifier struct {
	issuer     string
	audiences  []string
	algorithms []string
	leeway     time.Duration
	keys       keySource
	now        func() time.Time

	// believed are tokens whose signature was verified, by their digest: a caller sends the same one with every call.
	believed *lru.Cache[[sha256.Size]byte, belief]
}

// belief holds until the token expires or the keys change.
type belief struct {
	keys    *keySet
	expires time.Time
}

const maxBelieved = 1024

func newVerifier(s *settings.JWT, keys keySource) *verifier {
	v := &verifier{issuer: s.Issuer, audiences: s.Audiences, algorithms: s.Algorithms, leeway: s.Leeway, keys: keys, now: time.Now}
	v.believed, _ = lru.New[[sha256.Size]byte, belief](maxBelieved) // the only error is a size below one
	return v
}

// verify returns why a token is not believed; nil where it is.
func (v *verifier) verify(ctx context.Context, token string) *Refusal {
	keys := v.keys.current()
	digest := sha256.Sum256([]byte(token))
	if b, ok := v.believed.Get(digest); ok && keys != nil && b.keys == keys {
		return v.expired(b.expires)
	}
	if strings.Count(token, ".") != 2 {
		return &Refusal{Reason: WrongCredential, Detail: "the bearer token is neither in a secret nor a JWT"}
	}
	message, err := jws.ParseString(token, jws.WithCompact())
	if err != nil || len(message.Signatures()) != 1 {
		return &Refusal{Reason: InvalidToken, Detail: "the token is no signed JWT"}
	}
	header := message.Signatures()[0].ProtectedHeaders()
	algorithm, _ := header.Algorithm()
	if !slices.Contains(v.algorithms, algorithm.String()) {
		return &Refusal{Reason: InvalidToken, Detail: fmt.Sprintf("the token is signed with %.20q; algorithms has %q", algorithm, v.algorithms)}
	}
	if header.Has(jws.CriticalKey) || header.Has("b64") {
		return &Refusal{Reason: InvalidToken, Detail: "the token has critical headers; none are known here"}
	}
	id, _ := header.KeyID()
	if keys == nil || len(keys.candidates(id, algorithm.String())) == 0 {
		v.keys.renew(ctx)
		if keys = v.keys.current(); keys == nil {
			return &Refusal{Reason: KeysUnavailable, Detail: "the issuer's keys could not be fetched yet"}
		}
	}
	payload, refusal := signed(token, keys.candidates(id, algorithm.String()), id, algorithm)
	if refusal != nil {
		return refusal
	}
	claims, err := jwt.Parse(payload, jwt.WithVerify(false), jwt.WithValidate(false))
	if err != nil {
		return &Refusal{Reason: InvalidToken, Detail: "the token's claims cannot be read"}
	}
	expires, refusal := v.check(claims)
	if refusal != nil {
		return refusal
	}
	v.believed.Add(digest, belief{keys, expires})
	return nil
}

// signed returns the payload if one of the keys signed the token.
func signed(token string, keys []any, id string, algorithm jwa.SignatureAlgorithm) ([]byte, *Refusal) {
	for _, key := range keys {
		if payload, err := jws.Verify([]byte(token), jws.WithKey(algorithm, key), jws.WithCompact()); err == nil {
			return payload, nil
		}
	}
	if len(keys) == 0 {
		return nil, &Refusal{Reason: InvalidToken, Detail: fmt.Sprintf("the issuer has no key %.100q for %s", id, algorithm)}
	}
	return nil, &Refusal{Reason: InvalidToken, Detail: "the token's signature is wrong"}
}

// check returns when a token expires, or why its claims do not do.
func (v *verifier) check(claims jwt.Token) (expires time.Time, refusal *Refusal) {
	issuer, _ := claims.Issuer()
	if issuer != v.issuer {
		return time.Time{}, &Refusal{Reason: InvalidToken, Detail: fmt.Sprintf("the token's issuer is %.200q", issuer)}
	}
	audiences, _ := claims.Audience()
	if !slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(v.audiences, a) }) {
		return time.Time{}, &Refusal{Reason: InvalidToken, Detail: fmt.Sprintf("the token is for %.200q", audiences)}
	}
	expires, ok := claims.Expiration()
	if !ok {
		return time.Time{}, &Refusal{Reason: InvalidToken, Detail: "the token does not say when it expires"}
	}
	if from, ok := claims.NotBefore(); ok && v.now().Add(v.leeway).Before(from) {
		return time.Time{}, &Refusal{Reason: InvalidToken, Detail: "the token is not valid before " + from.UTC().Format(time.RFC3339)}
	}
	return expires, v.expired(expires)
}

func (v *verifier) expired(expires time.Time) *Refusal {
	if v.now().Before(expires.Add(v.leeway)) {
		return nil
	}
	return &Refusal{Reason: TokenExpired, Detail: "the token expired on " + expires.UTC().Format(time.RFC3339)}
}
