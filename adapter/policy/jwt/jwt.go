// Package jwt checks that a property of the request is a JSON Web Token that a known key signed and that says what it must.
//
// Whatever is wrong with a token is a denial with a reason. Only where the keys are not there the check cannot tell: that is a
// failure, unless the token is denied whatever the keys are.
package jwt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/credential"
	"github.com/tollgate-mesh/tollgate/config"
)

// KeySets gives named key sets.
type KeySets interface {
	// KeySet returns the named key set, and false where the settings define none of that name.
	KeySet(name string) (KeySet, bool)
}

// KeySet is one named key set. Its keys change when its source does.
type KeySet interface {
	// Symmetric reports whether the keys are those of HMAC, which whoever verifies could also sign with.
	Symmetric() bool
	// Keys returns the keys that count now, or why there are none: [ErrNotLoaded] before they were there for the first time.
	Keys() (*Keys, error)
	// Want tells that a token names a key which is not among them. It returns at once.
	Want()
}

// ErrNotLoaded says that a key set was not there yet.
var ErrNotLoaded = errors.New("the keys are not loaded yet")

// The reasons of JWT verdicts.
const (
	// ReasonValid is that of tokens that pass; all others are denials.
	ReasonValid = "token_valid"
	// ReasonAbsent means that the request has no token.
	ReasonAbsent = "absent"
	// ReasonMalformed means that what it has is no JWS in compact form with claims, is too large, or needs what nobody here understands.
	ReasonMalformed = "malformed"
	// ReasonAlgorithm means that the signature's algorithm is not taken, or does not suit the key.
	ReasonAlgorithm = "algorithm"
	// ReasonUnknownKey means that the key set has no key of the id that the token names.
	ReasonUnknownKey = "unknown_key"
	// ReasonBadSignature means that the key did not make the signature.
	ReasonBadSignature = "bad_signature"
	// ReasonExpired means that the token has ended, or is too old.
	ReasonExpired = "expired"
	// ReasonNotYetValid means that the token's time is to come.
	ReasonNotYetValid = "not_yet_valid"
	// ReasonWrongIssuer and ReasonWrongAudience mean that it is from or for somebody else.
	ReasonWrongIssuer   = "wrong_issuer"
	ReasonWrongAudience = "wrong_audience"
	// ReasonMissingClaim means that a claim which the handler wants is not there or is another.
	ReasonMissingClaim = "missing_claim"
)

// descriptions are what a denied caller reads. None has anything of the token, nor of what the handler wants of it.
var descriptions = map[string]string{
	ReasonAbsent:        "",
	ReasonMalformed:     "the token is malformed",
	ReasonAlgorithm:     "the signature algorithm is not accepted",
	ReasonUnknownKey:    "the signing key is not known",
	ReasonBadSignature:  "the signature is not valid",
	ReasonExpired:       "the token is expired",
	ReasonNotYetValid:   "the token is not valid yet",
	ReasonWrongIssuer:   "the issuer is not accepted",
	ReasonWrongAudience: "the token is for another audience",
	ReasonMissingClaim:  "a claim is missing or not accepted",
}

// Kind compiles JWT checks.
type Kind struct {
	// KeySets resolves the names in params.
	KeySets KeySets
	// Cache keeps verified tokens for all checks; nil keeps none.
	Cache *Cache
}

// Compile returns one check per configured token.
func (k Kind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	var (
		checks   []policy.Check
		problems config.Problems
	)
	for i := range handler.JWT {
		c, found := k.compile(&handler.JWT[i], handler)
		problems = append(problems, found...)
		if c != nil {
			c.tells = i == 0
			checks = append(checks, c)
		}
	}
	return checks, problems
}

func (k Kind) compile(configured *config.JWTCheck, handler *config.Handler) (*check, config.Problems) {
	field := "jwt." + configured.Name
	keySet, ok := k.KeySets.KeySet(configured.Keys)
	if !ok {
		return nil, config.Problems{{Field: field + ".keys", Text: fmt.Sprintf(
			"names %.64q, which the adapter's settings do not define; add it under key_sets or correct the name", configured.Keys)}}
	}
	c := &check{
		name:       "jwt/" + configured.Name,
		config:     configured,
		keySet:     keySet,
		algorithms: configured.Algorithms,
		cache:      k.Cache,
		denials:    denials(configured.Realm, handler.Denial),
		identity:   sha256.Sum256(fmt.Appendf(nil, "%#v", *configured)),
	}
	suitable := config.SignatureAlgorithms(keySet.Symmetric())
	if len(c.algorithms) == 0 {
		c.algorithms = suitable
	}
	var problems config.Problems
	for _, name := range c.algorithms {
		if !slices.Contains(suitable, name) {
			problems = append(problems, config.Problem{Field: field + ".algorithms", Text: fmt.Sprintf(
				"has %s, which does not go with the key set %q; use some of %s", name, configured.Keys, strings.Join(suitable, ", "))})
		}
	}
	var err error
	if c.rules, err = compileRules(configured.Claims); err != nil {
		problems = append(problems, config.Problem{Field: field + ".claims", Text: err.Error()})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// denials returns what callers are told, by reason; nothing where the handler's own denial holds.
func denials(realm string, own config.Denial) map[string]*config.Denial {
	if realm == "" {
		return nil
	}
	all := make(map[string]*config.Denial, len(descriptions))
	for reason, description := range descriptions {
		challenge := fmt.Sprintf("Bearer realm=%q", realm)
		if description != "" {
			// RFC 6750, 3.1: who brought no token is not told of an error.
			challenge += fmt.Sprintf(`, error="invalid_token", error_description=%q`, description)
		}
		all[reason] = credential.Challenge(own, challenge)
	}
	return all
}

type check struct {
	name       string
	config     *config.JWTCheck
	keySet     KeySet
	algorithms []string
	rules      []rule
	cache      *Cache
	denials    map[string]*config.Denial
	// identity tells this check's configuration from others in the cache.
	identity [sha256.Size]byte
	// tells is whether later checks see the claims.
	tells bool
}

func (c *check) Name() string { return c.name }

// Cost is that of a check with a deadline: some signatures take a tenth of a millisecond to verify.
func (c *check) Cost() policy.Cost { return policy.Compute }

// Recall knows tokens that were verified before, and requests without one.
func (c *check) Recall(request *policy.Request) (v policy.Verdict, ok bool) {
	text, reason := c.presented(request)
	if reason != "" {
		return c.deny(reason), true
	}
	keys, err := c.keySet.Keys()
	if err != nil {
		return v, false
	}
	known, ok := c.cache.get(c.cacheID(text, keys))
	if !ok {
		return v, false
	}
	now := time.Now()
	if reason := c.timely(known, now); reason != "" {
		return c.untimely(reason, known, now), true
	}
	return c.pass(known, now), true
}

// presented returns what may be a token, or why there is none.
func (c *check) presented(request *policy.Request) (text, reason string) {
	value, ok := request.Property(c.config.Property)
	presented, isText := value.Text()
	if ok && !isText {
		return "", ReasonMalformed
	}
	switch text = bearer(presented); {
	case text == "":
		return "", ReasonAbsent
	case len(text) > MaxTokenBytes:
		return "", ReasonMalformed
	}
	return text, ""
}

func (c *check) cacheID(text string, keys *Keys) cacheID {
	return cacheID{token: sha256.Sum256([]byte(text)), keys: keys.revision, check: c.identity}
}

// Evaluate looks for the reasons to deny that take no key, then for the signature, then for the claims that the handler wants, so
// that nobody can find out by tokens of their own making what these are.
func (c *check) Evaluate(_ context.Context, request *policy.Request) policy.Verdict {
	if v, ok := c.Recall(request); ok {
		return v
	}
	text, _ := c.presented(request)
	now := time.Now()
	t, err := Parse(text)
	if err != nil {
		return c.deny(ReasonMalformed)
	}
	if reason := c.acceptable(t); reason != "" {
		return c.deny(reason)
	}
	if reason := c.timely(t, now); reason != "" {
		return c.untimely(reason, t, now)
	}
	keys, err := c.keySet.Keys()
	if err != nil {
		return c.unverified(t, err)
	}
	switch reason := keys.Verify(t); {
	case reason == ReasonUnknownKey:
		c.keySet.Want()
		// The key may be there a moment later.
		v := c.deny(reason)
		v.Lifetime = config.SingleUse
		return v
	case reason != "":
		return c.deny(reason)
	case !c.follows(t):
		return c.deny(ReasonMissingClaim)
	}
	c.cache.add(c.cacheID(text, keys), t)
	return c.pass(t, time.Now()) // to verify takes its time, and the token ends no later for it
}

// unverified is the verdict while keys are away. Claims are looked at without a signature then: a token that does not have those
// wanted is denied whatever the keys are, and must not pass where the failure is open.
func (c *check) unverified(t *Token, away error) policy.Verdict {
	switch {
	case !c.follows(t):
		return c.deny(ReasonMissingClaim)
	case errors.Is(away, ErrNotLoaded):
		return policy.Failing(policy.Fail(config.PolicyNotLoaded, "key set %q: %v", c.config.Keys, away))
	default:
		return policy.Failing(policy.Fail(config.DependencyDown, "key set %q: %v", c.config.Keys, away))
	}
}

// acceptable looks at what needs no key and does not change with time.
func (c *check) acceptable(t *Token) (reason string) {
	switch {
	case !slices.Contains(c.algorithms, t.Algorithm):
		return ReasonAlgorithm
	case !slices.Contains(c.config.Issuers, t.Issuer):
		return ReasonWrongIssuer
	case len(c.config.Audiences) > 0 && !slices.ContainsFunc(t.Audiences, func(a string) bool { return slices.Contains(c.config.Audiences, a) }):
		return ReasonWrongAudience
	case c.config.MaxAge > 0 && t.Issued.IsZero(), !c.config.AllowNoExpiry && t.Expires.IsZero():
		return ReasonMissingClaim
	}
	return ""
}

// timely looks at what time changes.
func (c *check) timely(t *Token, now time.Time) (reason string) {
	leeway := c.config.Leeway
	switch end := c.end(t); {
	case !end.IsZero() && !now.Before(end.Add(leeway)):
		return ReasonExpired
	case now.Add(leeway).Before(c.begin(t)):
		return ReasonNotYetValid
	}
	return ""
}

// end is when the token ends, or is too old; zero for never.
func (c *check) end(t *Token) time.Time {
	end := t.Expires
	if c.config.MaxAge > 0 {
		if tooOld := t.Issued.Add(c.config.MaxAge); end.IsZero() || tooOld.Before(end) {
			end = tooOld
		}
	}
	return end
}

// begin is when the token begins; zero for always. One that was issued in the future would outlast its age.
func (c *check) begin(t *Token) time.Time {
	if c.config.MaxAge > 0 && t.Issued.After(t.NotBefore) {
		return t.Issued
	}
	return t.NotBefore
}

func (c *check) follows(t *Token) bool {
	for i := range c.rules {
		if !c.rules[i].holds(t.Claims) {
			return false
		}
	}
	return true
}

func (c *check) pass(t *Token, now time.Time) policy.Verdict {
	v := policy.Pass(ReasonValid)
	// Leeway does not count: it is for clocks that differ, and not to be used up by answers that are kept.
	v.Lifetime = policy.Until(c.end(t), now)
	if c.tells {
		v.Claims = t.Claims
	}
	return v
}

func (c *check) deny(reason string) policy.Verdict {
	v := policy.Deny(reason)
	v.Denial = c.denials[reason]
	return v
}

// untimely denies for no longer than the token's time is to come.
func (c *check) untimely(reason string, t *Token, now time.Time) policy.Verdict {
	v := c.deny(reason)
	if reason == ReasonNotYetValid {
		v.Lifetime = policy.Until(c.begin(t).Add(-c.config.Leeway), now)
	}
	return v
}
