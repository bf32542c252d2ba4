package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// JWTCheck passes when a property is a JSON Web Token that is valid.
type JWTCheck struct {
	// Name labels the check.
	Name string
	// Property has the token.
	Property Property
	// Keys names the key set.
	Keys string
	// Issuers are those that tokens may be from; at least one.
	Issuers []string
	// Audiences are those that tokens may be for; none for whomever.
	Audiences []string
	// Algorithms are those that are taken; none for all that suit the key set.
	Algorithms []string
	// Leeway is how far clocks may differ.
	Leeway time.Duration
	// AllowNoExpiry takes tokens that do not say when they end.
	AllowNoExpiry bool
	// MaxAge is how long after they were issued tokens are taken; 0 for no such bound.
	MaxAge time.Duration
	// Claims are further rules, all of which must hold.
	Claims []ClaimRule
	// Realm is what a denied caller is to authenticate for; empty to leave the handler's denial as it is.
	Realm string
}

// ClaimRule says what a claim must be: one of Values, a match of Pattern, or an array with Contains. The others are zero.
type ClaimRule struct {
	// Path leads to the claim, through an object at every step but the last.
	Path []string
	// Values are those of which the claim must have one.
	Values []string
	// Pattern is a regular expression that the whole value must match.
	Pattern string
	// Contains is a value that the claim's array must have.
	Contains string
}

// Bounds and defaults of a JWT check.
const (
	MaxJWTChecks       = 16
	MaxJWTNames        = 64
	MaxClaimRules      = 64
	MaxClaimValues     = 1000
	MaxClaimBytes      = 1024
	MaxRealmBytes      = 256
	DefaultLeeway      = 30 * time.Second
	MaxLeeway          = 5 * time.Minute
	MinTokenAge        = time.Second
	MaxTokenAge        = 8760 * time.Hour
	DefaultRealm       = "tollgate"
	maxKeySetNameBytes = 63
	maxClaimSteps      = 16
)

// SignatureAlgorithms returns the names of the algorithms with key pairs, or of those with one key for both sides.
func SignatureAlgorithms(symmetric bool) []string {
	if symmetric {
		return []string{"HS256", "HS384", "HS512"}
	}
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

func jwtChecks(problems *Problems, params []*configpb.JwtCheck, patterns *Patterns) []JWTCheck {
	if len(params) > MaxJWTChecks {
		problems.add("jwt", "has %d checks; use at most %d", len(params), MaxJWTChecks)
		return nil
	}
	var checks []JWTCheck
	for i, check := range params {
		checks = append(checks, jwtCheck(problems, fmt.Sprintf("jwt[%d]", i), check, patterns))
	}
	return checks
}

func jwtCheck(problems *Problems, field string, params *configpb.JwtCheck, patterns *Patterns) JWTCheck {
	check := JWTCheck{
		Property:      property(problems, field, params.SubjectProperty, params.ActionProperty),
		Keys:          params.GetKeys(),
		Issuers:       jwtNames(problems, field+".issuers", params.GetIssuers()),
		Audiences:     jwtNames(problems, field+".audiences", params.GetAudiences()),
		Algorithms:    algorithms(problems, field+".algorithms", params.GetAlgorithms()),
		Leeway:        DefaultLeeway,
		AllowNoExpiry: params.RequireExpiry != nil && !params.GetRequireExpiry(),
		Claims:        claimRules(problems, field+".claims", params.GetClaims(), patterns),
		Realm:         realm(problems, field+".www_authenticate", params.GetWwwAuthenticate()),
	}
	check.Name = name(problems, field+".name", params.GetName(), label(check.Property.Name))
	switch {
	case check.Keys == "":
		problems.add(field+".keys", "is missing; name a key set from the adapter's settings")
	case len(check.Keys) > maxKeySetNameBytes:
		problems.add(field+".keys", "has %d bytes; use at most %d", len(check.Keys), maxKeySetNameBytes)
	}
	if len(params.GetIssuers()) == 0 {
		problems.add(field+".issuers", "is missing; name whom tokens must be from, as their claim iss has it")
	}
	switch {
	case len(params.GetAudiences()) == 0 && !params.GetAnyAudience():
		problems.add(field+".audiences", "is missing, and tokens for others would be taken; name whom tokens must be for, or set any_audience")
	case len(params.GetAudiences()) > 0 && params.GetAnyAudience():
		problems.add(field+".any_audience", "stands beside audiences, which it would make void; keep one of the two")
	}
	if params.GetLeeway() != nil {
		check.Leeway = duration(problems, field+".leeway", params.GetLeeway(), 0, MaxLeeway)
	}
	if params.GetMaxAge() != nil {
		check.MaxAge = duration(problems, field+".max_age", params.GetMaxAge(), MinTokenAge, MaxTokenAge)
	}
	return check
}

func jwtNames(problems *Problems, field string, names []string) []string {
	if len(names) > MaxJWTNames {
		problems.add(field, "has %d names; use at most %d", len(names), MaxJWTNames)
		return nil
	}
	for i, name := range names {
		claimText(problems, fmt.Sprintf("%s[%d]", field, i), name)
	}
	return names
}

// claimText checks a text that a claim is to have.
func claimText(problems *Problems, field, text string) {
	switch {
	case strings.TrimSpace(text) == "":
		problems.add(field, "is empty; write the value that tokens must have")
	case len(text) > MaxClaimBytes:
		problems.add(field, "has %d bytes; use at most %d", len(text), MaxClaimBytes)
	}
}

func algorithms(problems *Problems, field string, names []string) []string {
	pairs, shared := SignatureAlgorithms(false), SignatureAlgorithms(true)
	if len(names) > len(pairs)+len(shared) {
		problems.add(field, "has %d names, more than there are algorithms; name each once", len(names))
		return nil
	}
	for i, name := range names {
		path := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case strings.EqualFold(name, "none"):
			problems.add(path, "is %s, which is no signature at all; remove it", quote(name))
		case !slices.Contains(pairs, name) && !slices.Contains(shared, name):
			problems.add(path, "is %s; use %s, or with a symmetric key set %s", quote(name), strings.Join(pairs, ", "), strings.Join(shared, ", "))
		case slices.Contains(names[:i], name):
			problems.add(path, "names %s again; keep one", quote(name))
		}
	}
	return names
}

func claimRules(problems *Problems, field string, params []*configpb.ClaimRule, patterns *Patterns) []ClaimRule {
	if len(params) > MaxClaimRules {
		problems.add(field, "has %d rules; use at most %d", len(params), MaxClaimRules)
		return nil
	}
	var rules []ClaimRule
	for i, rule := range params {
		rules = append(rules, claimRule(problems, fmt.Sprintf("%s[%d]", field, i), rule, patterns))
	}
	return rules
}

func claimRule(problems *Problems, field string, params *configpb.ClaimRule, patterns *Patterns) ClaimRule {
	var rule ClaimRule
	var kinds []string
	if params.Equals != nil {
		kinds = append(kinds, "equals")
		claimText(problems, field+".equals", params.GetEquals())
		rule.Values = []string{params.GetEquals()}
	}
	if len(params.GetOneOf()) > 0 {
		kinds = append(kinds, "one_of")
		rule.Values = params.GetOneOf()
		if len(rule.Values) > MaxClaimValues {
			problems.add(field+".one_of", "has %d values; use at most %d", len(rule.Values), MaxClaimValues)
			rule.Values = nil
		}
		for i, value := range rule.Values {
			claimText(problems, fmt.Sprintf("%s.one_of[%d]", field, i), value)
		}
	}
	if params.Pattern != nil {
		kinds = append(kinds, "pattern")
		claimText(problems, field+".pattern", params.GetPattern())
		rule.Pattern = params.GetPattern()
		if err := patterns.Add(rule.Pattern); err != nil {
			problems.add(field+".pattern", "%s", err)
		}
	}
	if params.Contains != nil {
		kinds = append(kinds, "contains")
		claimText(problems, field+".contains", params.GetContains())
		rule.Contains = params.GetContains()
	}
	switch len(kinds) {
	case 1:
	case 0:
		problems.add(field, "says nothing of the claim; add equals, one_of, pattern or contains")
	default:
		problems.add(field, "has %s; keep one, and make another rule of the same path for the rest", strings.Join(kinds, " and "))
	}
	path, err := claimPath(params.GetPath())
	if err != nil {
		problems.add(field+".path", "%s", err)
	}
	rule.Path = path
	return rule
}

// claimPath splits a path at its dots, but for those behind a backslash.
func claimPath(text string) ([]string, error) {
	if len(text) > MaxClaimBytes {
		return nil, fmt.Errorf("has %d bytes; use at most %d", len(text), MaxClaimBytes)
	}
	path := []string{""}
	last := &path[0]
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '.':
			path = append(path, "")
			last = &path[len(path)-1]
		case '\\':
			i++
			if i == len(text) || text[i] != '.' && text[i] != '\\' {
				return nil, fmt.Errorf(`is %s; behind a \ only a dot or another \ may stand`, quote(text))
			}
			*last += text[i : i+1]
		default:
			*last += text[i : i+1]
		}
	}
	switch {
	case text == "":
		return nil, errors.New("is empty; name the claim")
	case slices.Contains(path, ""):
		return nil, fmt.Errorf("is %s, which has an empty name between dots; name every step", quote(text))
	case len(path) > maxClaimSteps:
		return nil, fmt.Errorf("has %d steps; use at most %d", len(path), maxClaimSteps)
	}
	return path, nil
}

// realm returns the realm of the header to send; empty for none.
func realm(problems *Problems, field string, params *configpb.WwwAuthenticate) string {
	text := params.GetRealm()
	if params.GetOff() {
		if text != "" {
			problems.add(field, "has a realm, but is off; keep one of the two")
		}
		return ""
	}
	switch {
	case text == "":
		return DefaultRealm
	case len(text) > MaxRealmBytes:
		problems.add(field+".realm", "has %d bytes; use at most %d", len(text), MaxRealmBytes)
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }):
		problems.add(field+".realm", `is %s; use printable ASCII without " and \`, quote(text))
	}
	return text
}
