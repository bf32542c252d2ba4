package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// TypeURL is the type of the Any in which Mixer sends params.
const TypeURL = "type.googleapis.com/tollgate.config.v1.Params"

// AuthKeyProperty is the subject property that auth_key is compared with.
const AuthKeyProperty = "custom_token_header"

// Bounds of a handler configuration. They keep a hostile or mistaken one from holding memory or time that others need.
const (
	MaxNameBytes         = 63
	MaxHeaderChecks      = 256
	MaxExpectedPerCheck  = 10_000
	MaxExpectedBytes     = 16 << 10
	MaxPolicyBytes       = 1 << 20
	MaxPolicyModules     = 256
	MaxCheckMethodBytes  = 1024
	MaxMessageBytes      = 1024
	MaxBodyBytes         = 64 << 10
	MaxResponseHeaders   = 64
	MaxHeaderValueBytes  = 8 << 10
	MinEvaluationTimeout = time.Millisecond
	MaxEvaluationTimeout = time.Minute
)

// DefaultDenialMessage is what a denied caller is told where the operator chose nothing.
const DefaultDenialMessage = "not authorized"

// Parse decodes and validates params as Mixer encoded them.
//
// The handler is never nil. With problems, only its Name, Fingerprint, Modes and Report are meaningful. The modes are closed
// throughout unless the failure section itself decoded and has no problem; the report hides all values unless it is known which
// ones it is to hide. No problem shows an expected value. Of very many problems about a hundred are listed, and that there are more.
//
// A handler without checks has no problem here: it may be for reports alone. See [Handler.HasChecks]. Nothing within shadow is a
// problem here either, not even a field that this version does not know: see [Handler.Shadow].
func Parse(params []byte) (*Handler, Problems) {
	message := &configpb.Params{}
	if err := proto.Unmarshal(params, message); err != nil {
		// The library's text may quote what it choked on, so it is not passed on.
		return &Handler{Name: "undecodable", Fingerprint: fingerprint(params), Report: Report{HideAll: true}},
			Problems{{Field: "params", Text: fmt.Sprintf(
				"%d bytes are no %s: check that the adapter resource is the one that belongs to this version", len(params), message.ProtoReflect().Descriptor().FullName())}}
	}
	section := message.GetShadow()
	message.Shadow = nil // it is no part of what decides, nor of its fingerprint
	handler, problems := parse(message)
	handler.Shadow = shadow(message, section)
	return handler, problems
}

func parse(message *configpb.Params) (*Handler, Problems) {
	var problems Problems
	unknown(&problems, "", message.ProtoReflect())
	handler := validate(&problems, message)
	if slices.ContainsFunc(problems, func(p Problem) bool { return decidesModes(p.Field) }) {
		handler.Modes = Modes{}
	}
	if len(problems) > maxProblems || slices.ContainsFunc(problems, func(p Problem) bool { return decidesHiding(p.Field) }) {
		handler.Report.HideAll = true
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return strings.Compare(a.Field, b.Field) })
	return handler, problems
}

// fingerprint shortens a SHA-256 for use as a name.
func fingerprint(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:6])
}

func validate(problems *Problems, params *configpb.Params) *Handler {
	handler := &Handler{}
	// Sorted map keys make configurations equal that Mixer encoded in different orders.
	if canonical, err := (proto.MarshalOptions{Deterministic: true}).Marshal(params); err == nil {
		handler.Fingerprint = fingerprint(canonical)
	}
	handler.Name = name(problems, "name", params.GetName(), handler.Fingerprint)
	handler.Require = All
	if params.GetRequire() == configpb.Params_ANY {
		handler.Require = Any
	}
	handler.Headers = headers(problems, params)
	var patterns Patterns // of all checks, so that no number of them takes more than one may
	handler.JWT = jwtChecks(problems, params.GetJwt(), &patterns)
	handler.Lists = lists(problems, params.GetLists(), &patterns)
	handler.APIKeys = apiKeys(problems, params.GetApiKeys())
	handler.Basic = basicChecks(problems, params.GetBasic())
	handler.Rego = regoPolicy(problems, params)
	handler.Quotas = quotas(problems, params.GetQuotas())
	handler.Modes = modes(problems, params)
	handler.Allow, handler.Deny = lifetimes(problems, params.GetLifetimes())
	handler.Denial = denial(problems, params.GetDenial())
	if timeout := params.GetEvaluationTimeout(); timeout != nil {
		handler.EvaluationTimeout = duration(problems, "evaluation_timeout", timeout, MinEvaluationTimeout, MaxEvaluationTimeout)
	}
	handler.Report = report(problems, params.GetReport())
	handler.DecisionLog = decisionLog(problems, params.GetDecisionLog())
	return handler
}

func name(problems *Problems, field, name, fallback string) string {
	if name == "" {
		return fallback
	}
	if len(name) > MaxNameBytes {
		problems.add(field, "has %d bytes; use at most %d", len(name), MaxNameBytes)
		return fallback
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r) {
			problems.add(field, "%s has the character %q; use a-z, 0-9, '.', '_' and '-'", quote(name), r)
			return fallback
		}
	}
	return name
}

func headers(problems *Problems, params *configpb.Params) []HeaderCheck {
	var checks []HeaderCheck
	if params.AuthKey != nil {
		if expectedValue(problems, "auth_key", params.GetAuthKey()) {
			checks = append(checks, HeaderCheck{
				Name:     "auth_key",
				Property: Property{Name: AuthKeyProperty},
				Digests:  []Digest{sha256.Sum256([]byte(params.GetAuthKey()))},
			})
		}
	}
	if len(params.GetHeaders()) > MaxHeaderChecks {
		problems.add("headers", "has %d checks; use at most %d", len(params.GetHeaders()), MaxHeaderChecks)
		return checks
	}
	for i, header := range params.GetHeaders() {
		checks = append(checks, headerCheck(problems, fmt.Sprintf("headers[%d]", i), header))
	}
	return checks
}

func headerCheck(problems *Problems, field string, header *configpb.HeaderCheck) HeaderCheck {
	check := HeaderCheck{Property: property(problems, field, header.SubjectProperty, header.ActionProperty)}
	check.Name = name(problems, field+".name", header.GetName(), label(check.Property.Name))

	expected := len(header.GetValues()) + len(header.GetSha256()) + len(header.GetSecrets())
	if expected == 0 {
		problems.add(field, "expects nothing, so it could never pass: add values, sha256 or secrets")
	}
	if expected > MaxExpectedPerCheck {
		problems.add(field, "has %d expected values; use at most %d", expected, MaxExpectedPerCheck)
		return check
	}
	for i, value := range header.GetValues() {
		if expectedValue(problems, fmt.Sprintf("%s.values[%d]", field, i), value) {
			check.Digests = append(check.Digests, sha256.Sum256([]byte(value)))
		}
	}
	for i, text := range header.GetSha256() {
		if digest, ok := expectedDigest(problems, fmt.Sprintf("%s.sha256[%d]", field, i), text); ok {
			check.Digests = append(check.Digests, digest)
		}
	}
	check.Secrets = secrets(problems, field+".secrets", header.GetSecrets())
	return check
}

func expectedDigest(problems *Problems, field, text string) (digest Digest, ok bool) {
	decoded, err := hex.DecodeString(text)
	switch {
	case err != nil || len(decoded) != sha256.Size:
		problems.add(field, "has %d characters and is no SHA-256 in hexadecimal; write 64 digits, such as `sha256sum` prints for the value without a newline", len(text))
	case Digest(decoded) == sha256.Sum256(nil):
		problems.add(field, "is the digest of the empty value, which everybody has; digest the real value")
	default:
		return Digest(decoded), true
	}
	return digest, false
}

func secrets(problems *Problems, field string, names []string) (named []string) {
	for i, secret := range names {
		if secret == "" {
			problems.add(fmt.Sprintf("%s[%d]", field, i), "is empty; name a secret from the adapter's settings")
			continue
		}
		named = append(named, secret)
	}
	return named
}

// property returns the one of the two that is set.
func property(problems *Problems, field string, subject, action *string) Property {
	switch {
	case subject != nil && action != nil:
		problems.add(field, "has both subject_property and action_property; keep the one to compare and use a second check for the other")
	case subject == nil && action == nil:
		problems.add(field, "names no property; set subject_property or action_property")
	case subject != nil:
		if *subject == "" {
			problems.add(field+".subject_property", "is empty; name a property of the instance's subject")
		}
		return Property{Name: *subject}
	default:
		if *action == "" {
			problems.add(field+".action_property", "is empty; name a property of the instance's action")
		}
		return Property{Action: true, Name: *action}
	}
	return Property{}
}

// label makes a property's name fit for a metric label.
func label(property string) string {
	mapped := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', strings.ContainsRune("._-", r):
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return '_'
		}
	}, property)
	if len(mapped) > MaxNameBytes {
		mapped = mapped[:MaxNameBytes]
	}
	return mapped
}

// expectedValue reports whether a value may be expected. Its text never reaches a problem: it is a credential.
func expectedValue(problems *Problems, field, value string) bool {
	switch {
	case value == "":
		problems.add(field, "is empty, and an empty credential would be accepted from everybody; write the expected value")
	case strings.TrimSpace(value) == "":
		problems.add(field, "is only white space; write the expected value")
	case len(value) > MaxExpectedBytes:
		problems.add(field, "has %d bytes; use at most %d", len(value), MaxExpectedBytes)
	default:
		return true
	}
	return false
}

func regoPolicy(problems *Problems, params *configpb.Params) *RegoPolicy {
	modules, source, method := params.GetPolicy(), params.GetPolicySource(), params.GetCheckMethod()
	if len(modules) == 0 && source == "" && params.CheckMethod == nil {
		if params.GetRegoVersion() != configpb.Params_REGO_VERSION_UNSPECIFIED {
			problems.add("rego_version", "is %s, but there is no policy; add policy and check_method or remove it", params.GetRegoVersion())
		}
		return nil
	}
	switch {
	case len(modules) == 0 && source == "":
		problems.add("policy", "is missing; check_method %s needs the Rego module that defines it", quote(method))
	case len(modules) > 0 && source != "":
		problems.add("policy_source", "is %s and stands beside policy; keep the one that check_method is in", quote(source))
	case source != "" && params.GetRegoVersion() != configpb.Params_REGO_VERSION_UNSPECIFIED:
		problems.add("rego_version", "is %s and stands beside policy_source, whose language the bundle or the adapter's settings say; remove it", params.GetRegoVersion())
	case len(source) > MaxNameBytes:
		problems.add("policy_source", "has %d bytes; use at most %d", len(source), MaxNameBytes)
	}
	switch {
	case method == "":
		problems.add("check_method", "is missing; name the deciding rule, such as data.mixerauthz.allow")
	case len(method) > MaxCheckMethodBytes:
		problems.add("check_method", "has %d bytes; use at most %d", len(method), MaxCheckMethodBytes)
	}
	if len(modules) > MaxPolicyModules {
		problems.add("policy", "has %d modules; use at most %d", len(modules), MaxPolicyModules)
	}
	total := 0
	for i, module := range modules {
		total += len(module)
		if strings.TrimSpace(module) == "" {
			problems.add(fmt.Sprintf("policy[%d]", i), "is empty; write a Rego module or remove the entry")
		}
	}
	if total > MaxPolicyBytes {
		problems.add("policy", "has %d bytes in all; use at most %d", total, MaxPolicyBytes)
	}
	policy := &RegoPolicy{Modules: modules, Source: source, Decision: method}
	if params.GetRegoVersion() == configpb.Params_V1 {
		policy.Version = RegoV1
	}
	return policy
}

func modes(problems *Problems, params *configpb.Params) Modes {
	var m Modes
	if params.FailClose != nil && params.GetFailure() != nil {
		problems.add("fail_close", "stands beside failure, and they may disagree; keep failure, which names each cause")
		return m
	}
	if params.FailClose != nil {
		if params.GetFailClose() {
			m.closedCode = PermissionDenied
			return m
		}
		// What Mixer's own adapter lets through without fail_close. Overload and panic are Tollgate's own and need their own word.
		for _, class := range []FailureClass{ConfigurationFailure, PolicyNotLoaded, EvaluationError, UndefinedResult, Timeout, DependencyDown} {
			m = m.With(class, Open)
		}
		return m
	}
	failure := params.GetFailure()
	for class, mode := range map[FailureClass]configpb.Failure_Mode{
		ConfigurationFailure: failure.GetConfiguration(),
		PolicyNotLoaded:      failure.GetPolicyNotLoaded(),
		EvaluationError:      failure.GetEvaluationError(),
		UndefinedResult:      failure.GetUndefinedResult(),
		Timeout:              failure.GetTimeout(),
		DependencyDown:       failure.GetDependencyDown(),
		Overload:             failure.GetOverload(),
		Panic:                failure.GetPanic(),
	} {
		if mode == configpb.Failure_OPEN {
			m = m.With(class, Open)
		}
	}
	return m
}

func lifetimes(problems *Problems, params *configpb.Lifetimes) (allow, deny Lifetime) {
	allow = Lifetime{Duration: DefaultLifetimeDuration, Uses: DefaultLifetimeUses}
	if params.GetAllow() != nil {
		allow = lifetime(problems, "lifetimes.allow", params.GetAllow())
	}
	if params.GetDeny() != nil {
		deny = lifetime(problems, "lifetimes.deny", params.GetDeny())
		if deny == SingleUse {
			deny = Lifetime{}
		}
	}
	return allow, deny
}

func lifetime(problems *Problems, field string, params *configpb.Lifetime) Lifetime {
	if params.GetSingleUse() {
		if params.GetDuration() != nil || params.Uses != nil {
			problems.add(field, "has single_use beside duration or uses; keep one of the two")
		}
		return SingleUse
	}
	bounded := Lifetime{Duration: DefaultLifetimeDuration, Uses: DefaultLifetimeUses}
	if params.GetDuration() != nil {
		bounded.Duration = duration(problems, field+".duration", params.GetDuration(), MinLifetimeDuration, MaxLifetimeDuration)
	}
	if params.Uses != nil {
		uses := params.GetUses()
		if uses < 1 || uses > math.MaxInt32 {
			// Mixer passes 0 and negative counts on, and they mean "expired" or "without limit".
			problems.add(field+".uses", "is %d; use 1 to %d, or single_use", uses, math.MaxInt32)
			return SingleUse
		}
		bounded.Uses = int32(uses)
	}
	return bounded
}

func duration(problems *Problems, field string, d *durationpb.Duration, least, most time.Duration) time.Duration {
	if err := d.CheckValid(); err != nil {
		problems.add(field, "is no valid duration (%d seconds, %d nanoseconds); write one such as %q", d.GetSeconds(), d.GetNanos(), "1.5s")
		return least
	}
	if v := d.AsDuration(); v < least || v > most {
		problems.add(field, "is %s; use %s to %s", v, least, most)
		return least
	}
	return d.AsDuration()
}

func denial(problems *Problems, params *configpb.Denial) Denial {
	d := Denial{Code: PermissionDenied, Message: DefaultDenialMessage}
	if params == nil {
		return d
	}
	// An unknown number is already a problem; DenialCode keeps it from being used all the same.
	if code, ok := DenialCode(params.GetCode().String()); ok {
		d.Code = code
	}
	if params.GetMessage() != "" {
		d.Message = params.GetMessage()
	}
	if err := CheckMessage(d.Message); err != nil {
		problems.add("denial.message", "%s", err)
	}
	if reply := params.GetHttp(); reply != nil {
		response, found := NewHTTPResponse(reply.GetStatus(), reply.GetBody(), reply.GetHeaders())
		for _, problem := range found {
			problems.add("denial.http."+problem.Field, "%s", problem.Text)
		}
		d.HTTP = response
	}
	return d
}

// CheckMessage says what is wrong with a denial's message, if anything: it is too long, or would break the header or log
// line that it ends up in.
func CheckMessage(message string) error {
	if len(message) > MaxMessageBytes {
		return fmt.Errorf("has %d bytes; use at most %d", len(message), MaxMessageBytes)
	}
	if strings.ContainsFunc(message, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("has control characters; write one line of text")
	}
	return nil
}

// NewHTTPResponse checks what a denied request is to be answered with. Its headers are copied. Problem fields are relative
// to the response.
func NewHTTPResponse(status int64, body string, headers map[string]string) (*HTTPResponse, Problems) {
	var problems Problems
	if status != 0 && (status < http.StatusMultipleChoices || status > 599) {
		problems.add("status", "is %d; use 300 to 599", status)
		status = 0
	}
	if len(body) > MaxBodyBytes {
		problems.add("body", "has %d bytes; use at most %d", len(body), MaxBodyBytes)
	}
	if len(headers) > MaxResponseHeaders {
		problems.add("headers", "has %d entries; use at most %d", len(headers), MaxResponseHeaders)
	}
	response := &HTTPResponse{Status: int32(status), Body: body, Headers: make(map[string]string, len(headers))}
	for _, key := range slices.Sorted(maps.Keys(headers)) {
		value := headers[key]
		path := "headers[" + quote(key) + "]"
		switch {
		case !httpguts.ValidHeaderFieldName(key):
			problems.add(path, "is no HTTP header name; use letters, digits and '-'")
		case !httpguts.ValidHeaderFieldValue(value):
			problems.add(path, "has a value with control characters; write one line of text")
		case len(value) > MaxHeaderValueBytes:
			problems.add(path, "has a value of %d bytes; use at most %d", len(value), MaxHeaderValueBytes)
		case strings.EqualFold(key, "Set-Cookie") && strings.Contains(value, ","):
			problems.add(path, "has a comma, at which Mixer splits cookies; use Max-Age in place of Expires")
		default:
			response.Headers[key] = value
		}
	}
	return response, problems
}
