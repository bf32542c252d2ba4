package config

import "time"

// Require says how the checks of a handler combine.
type Require uint8

const (
	// All means that every check must pass.
	All Require = iota
	// Any means that one check that passes is enough.
	Any
)

// String returns "all" or "any".
func (r Require) String() string {
	if r == Any {
		return "any"
	}
	return "all"
}

// Code is the status of a decision, numbered as in google.rpc.Code.
type Code int32

// The codes that a decision may carry. Internal (13) is missing on purpose: a mesh with policyCheckFailOpen turns it into an
// allow (Istio's proxy, check response handling).
const (
	OK                 Code = 0
	InvalidArgument    Code = 3
	NotFound           Code = 5
	PermissionDenied   Code = 7
	ResourceExhausted  Code = 8
	FailedPrecondition Code = 9
	Unavailable        Code = 14
	Unauthenticated    Code = 16
)

var codeNames = map[Code]string{
	OK:                 "OK",
	InvalidArgument:    "INVALID_ARGUMENT",
	NotFound:           "NOT_FOUND",
	PermissionDenied:   "PERMISSION_DENIED",
	ResourceExhausted:  "RESOURCE_EXHAUSTED",
	FailedPrecondition: "FAILED_PRECONDITION",
	Unavailable:        "UNAVAILABLE",
	Unauthenticated:    "UNAUTHENTICATED",
}

// String returns the code's name in google.rpc.Code.
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return "UNKNOWN"
}

// DenialCode returns the code with the given name if a denial may carry it.
func DenialCode(name string) (Code, bool) {
	for code, n := range codeNames {
		if n == name && code != OK && code != Unavailable {
			return code, true
		}
	}
	return OK, false
}

// Lifetime bounds how long Mixer and the proxies may reuse an answer. The zero value sets no bound; where it reaches the wire
// in a denial it means that the denial is not reused.
type Lifetime struct {
	// Duration is how long. Negative means not at all.
	Duration time.Duration
	// Uses is for how many requests after the one that was answered.
	Uses int32
}

// SingleUse is the lifetime of an answer to one request alone. Mixer takes the minimum of each field over all handlers and
// reads 0/0 as a minute, so the form has to stay unusable whatever it is merged with: a negative duration survives every
// minimum, and the proxy takes it for expired.
var SingleUse = Lifetime{Duration: -time.Second, Uses: 1}

// Defaults and bounds of lifetimes.
const (
	DefaultLifetimeDuration = 5 * time.Second
	DefaultLifetimeUses     = 10_000
	MinLifetimeDuration     = time.Millisecond
	MaxLifetimeDuration     = 24 * time.Hour
)

// Reusable reports whether an allow with this lifetime may serve more than one request: both fields are positive.
func (l Lifetime) Reusable() bool { return l.Duration > 0 && l.Uses > 0 }

// HTTPResponse is what the proxy answers a denied request with.
type HTTPResponse struct {
	// Status is 300 to 599, or 0 to derive it from the code.
	Status int32
	// Body is the response body.
	Body string
	// Headers are response headers.
	Headers map[string]string
}

// Denial is what a denied caller is told.
type Denial struct {
	// Code is never OK.
	Code Code
	// Message reaches the end user.
	Message string
	// HTTP replaces the reply that the proxy derives from the code; nil leaves it.
	HTTP *HTTPResponse
}

// Property names a property of a request.
type Property struct {
	// Action tells the action's properties from the subject's.
	Action bool
	// Name is never empty.
	Name string
}

// String returns the property's path in an authorization instance.
func (p Property) String() string {
	if p.Action {
		return "action.properties." + p.Name
	}
	return "subject.properties." + p.Name
}

// Digest is the SHA-256 of an expected value. Plain values are kept only in this form.
type Digest [32]byte

// HeaderCheck passes when a property equals an expected value.
type HeaderCheck struct {
	// Name labels the check.
	Name string
	// Property is the one to compare.
	Property Property
	// Digests are those of the expected values.
	Digests []Digest
	// Secrets name further expected values.
	Secrets []string
}

// EntryType is what the entries of a list are.
type EntryType uint8

const (
	// Strings are texts that equal the value.
	Strings EntryType = iota
	// CaseInsensitiveStrings are texts that equal the value but for upper and lower case.
	CaseInsensitiveStrings
	// IPAddresses are addresses and CIDR blocks.
	IPAddresses
	// Regex are regular expressions that match the whole value.
	Regex
)

var entryTypes = [...]string{"strings", "case_insensitive_strings", "ip_addresses", "regex"}

// String returns the type's name in lower case.
func (t EntryType) String() string { return entryTypes[t] }

// ParseEntryType returns the type with the given name in lower case.
func ParseEntryType(name string) (EntryType, bool) {
	for _, t := range []EntryType{Strings, CaseInsensitiveStrings, IPAddresses, Regex} {
		if t.String() == name {
			return t, true
		}
	}
	return Strings, false
}

// ListCheck passes when a value is on a list, or when it is not.
type ListCheck struct {
	// Name labels the check.
	Name string
	// Property is the one to look for; without a name, the value of a listentry instance.
	Property Property
	// DeniesListed means that those listed are denied and all others pass; else only those listed pass.
	DeniesListed bool
	// Type is what Entries are.
	Type EntryType
	// Entries are the list's, each valid for its type; none where there is a Source.
	Entries []string
	// Source names a list that the settings define; empty where there are Entries.
	Source string
	// Lifetime bounds the reuse of answers; 0 for no bound.
	Lifetime time.Duration
}

// APIKeyCheck passes when the caller presents a known key.
type APIKeyCheck struct {
	// Name labels the check.
	Name string
	// Property has the key; without a name, the api_key of an apikey instance.
	Property Property
	// Keys are those known by their digests, each digest once.
	Keys []APIKey
	// Secrets name further keys; whose they are is the secret's name.
	Secrets []string
}

// APIKey is one key.
type APIKey struct {
	// Identity is whose key it is; never empty.
	Identity string
	// Digest is the key's.
	Digest Digest
}

// RegoVersion is the language version of policies.
type RegoVersion uint8

const (
	// RegoV0 is the syntax before OPA 1.0.
	RegoV0 RegoVersion = iota
	// RegoV1 is the syntax of OPA 1.0 and later.
	RegoV1
)

// RegoPolicy is a policy that is given inline, or comes from a source.
type RegoPolicy struct {
	// Modules are given inline; at least one, unless there is a Source.
	Modules []string
	// Source names a policy source that the settings define; empty where there are Modules.
	Source string
	// Decision is the reference to the deciding rule, such as data.mixerauthz.allow.
	Decision string
	// Version is the language of Modules.
	Version RegoVersion
}

// Handler is a validated handler configuration. It is immutable.
type Handler struct {
	// Name is what the operator called the handler, or its fingerprint.
	Name string
	// Fingerprint identifies the configuration whatever order Mixer encoded its maps in: 12 hexadecimal digits.
	Fingerprint string
	// Require says how the checks combine.
	Require Require
	// Headers are the property checks, auth_key's first.
	Headers []HeaderCheck
	// JWT are the token checks. Rego policies see the claims of the first.
	JWT []JWTCheck
	// Lists are the list checks.
	Lists []ListCheck
	// APIKeys are the API key checks.
	APIKeys []APIKeyCheck
	// Basic are the checks of names and passwords.
	Basic []BasicCheck
	// Rego is nil where there is no policy.
	Rego *RegoPolicy
	// Quotas limit what quota calls may take. They are no checks.
	Quotas []Quota
	// Modes are the failure modes. They are closed throughout where the failure section has a problem.
	Modes Modes
	// Allow bounds the reuse of allows: both fields positive, or SingleUse.
	Allow Lifetime
	// Deny bounds the reuse of denials; zero for not at all.
	Deny Lifetime
	// Denial is what denied callers are told.
	Denial Denial
	// EvaluationTimeout bounds a decision; 0 leaves it to the adapter's settings.
	EvaluationTimeout time.Duration
	// Report says what becomes of what is reported.
	Report Report
	// DecisionLog says which decisions are recorded.
	DecisionLog DecisionLog
	// Shadow is what the handler may become; nil where nothing is tried.
	Shadow *Shadow
}

// CheckCount returns how many checks are configured. A policy with another number of checks must not decide: one that nobody made
// would let pass what the operator meant to stop.
func (h *Handler) CheckCount() int {
	count := len(h.Headers) + len(h.JWT) + len(h.Lists) + len(h.APIKeys) + len(h.Basic)
	if h.Rego != nil {
		count++
	}
	return count
}

// HasChecks reports whether anything is configured that could deny.
func (h *Handler) HasChecks() bool { return h.CheckCount() > 0 }
