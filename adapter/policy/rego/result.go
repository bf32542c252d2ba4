package rego

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// verdict reads the deciding rule's value: a bool, or an object with the member allow and any of code, message, reason,
// http_status, headers, body and lifetime. Anything else, a member that does not exist included, is an evaluation error: a
// misspelt member must not change what the policy means.
func (c *check) verdict(value any) policy.Verdict {
	switch v := value.(type) {
	case bool:
		if v {
			return policy.Verdict{Result: policy.Passed, Reason: ReasonAllow, Lifetime: c.program.lifetime}
		}
		return policy.Verdict{Result: policy.Denied, Reason: ReasonDeny, Lifetime: c.program.lifetime}
	case map[string]any:
		verdict, err := c.object(v)
		if err != nil {
			return policy.Failing(policy.Fail(config.EvaluationError, "%s: %v", c.program.name, err))
		}
		return verdict
	default:
		return policy.Failing(policy.Fail(config.EvaluationError, "%s yields %s; it must yield a bool or a result object", c.program.name, jsonType(value)))
	}
}

func (c *check) object(members map[string]any) (policy.Verdict, error) {
	var (
		result         = resultReader{members: members}
		allow, decides = result.boolean("allow")
		code, hasCode  = result.text("code")
		message, says  = result.text("message")
		reason, _      = result.text("reason")
		status, _      = result.integer("http_status")
		body, _        = result.text("body")
		headers        = result.texts("headers")
		lifetime       = result.lifetime("lifetime", c.program.lifetime)
	)
	result.rejectOthers()
	if !decides && result.err == nil {
		result.err = errors.New("the result object has no member allow")
	}
	if result.err != nil {
		return policy.Verdict{}, result.err
	}
	if allow {
		return policy.Verdict{Result: policy.Passed, Reason: or(reason, ReasonAllow), Lifetime: lifetime}, nil
	}
	denial := c.denial
	if hasCode {
		var ok bool
		if denial.Code, ok = config.DenialCode(code); !ok {
			return policy.Verdict{}, errors.New("code is no status a denial may have; use one such as PERMISSION_DENIED or UNAUTHENTICATED")
		}
	}
	if says {
		if err := config.CheckMessage(message); err != nil {
			return policy.Verdict{}, fmt.Errorf("message %w", err)
		}
		denial.Message = message
	}
	if status != 0 || body != "" || len(headers) > 0 {
		response, problems := config.NewHTTPResponse(status, body, headers)
		if len(problems) > 0 {
			// The problems quote the header names and the status, and a policy may have made them of the request.
			return policy.Verdict{}, fmt.Errorf("http_status must be 300 to 599, headers at most %d that are valid in HTTP, no cookie with a comma, and body at most %d bytes",
				config.MaxResponseHeaders, config.MaxBodyBytes)
		}
		denial.HTTP = response
	}
	return policy.Verdict{Result: policy.Denied, Reason: or(reason, ReasonDeny), Lifetime: lifetime, Denial: &denial}, nil
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// resultReader reads typed members of an object and keeps the first error. Its errors name members and types, not values.
type resultReader struct {
	members map[string]any
	read    int
	err     error
}

func (r *resultReader) member(name string) (any, bool) {
	v, ok := r.members[name]
	if ok {
		r.read++
	}
	return v, ok
}

func (r *resultReader) mistyped(name string, value any, want string) {
	if r.err == nil {
		r.err = fmt.Errorf("member %s is %s; it must be %s", name, jsonType(value), want)
	}
}

func (r *resultReader) boolean(name string) (value, ok bool) {
	v, there := r.member(name)
	if !there {
		return false, false
	}
	if value, ok = v.(bool); !ok {
		r.mistyped(name, v, "a bool")
	}
	return value, ok
}

func (r *resultReader) text(name string) (value string, ok bool) {
	v, there := r.member(name)
	if !there {
		return "", false
	}
	if value, ok = v.(string); !ok {
		r.mistyped(name, v, "a string")
	}
	r.requireUTF8(name, value)
	return value, ok
}

// requireUTF8 refuses what base64.decode and its like can make: bytes that no protobuf string may hold. A proxy that cannot decode a
// denial would treat it as an error of the call, and may let the request pass for that.
func (r *resultReader) requireUTF8(name, value string) {
	if r.err == nil && !utf8.ValidString(value) {
		r.err = fmt.Errorf("member %s is not UTF-8", name)
	}
}

func (r *resultReader) integer(name string) (value int64, ok bool) {
	v, there := r.member(name)
	if !there {
		return 0, false
	}
	number, isNumber := v.(json.Number)
	value, err := number.Int64()
	if !isNumber || err != nil {
		r.mistyped(name, v, "a whole number")
		return 0, false
	}
	return value, true
}

func (r *resultReader) texts(name string) map[string]string {
	v, there := r.member(name)
	if !there {
		return nil
	}
	object, ok := v.(map[string]any)
	if !ok {
		r.mistyped(name, v, "an object of strings")
		return nil
	}
	values := make(map[string]string, len(object))
	for key, member := range object {
		value, ok := member.(string)
		if !ok {
			r.mistyped(name, member, "an object of strings")
			return nil
		}
		r.requireUTF8(name, key)
		r.requireUTF8(name, value)
		values[key] = value
	}
	return values
}

// lifetime reads {"duration": "30s", "uses": 100}, of which either may be missing, or the string "single_use".
func (r *resultReader) lifetime(name string, otherwise config.Lifetime) config.Lifetime {
	const want = `"single_use" or an object with duration, such as "30s", and uses`
	v, there := r.member(name)
	if !there {
		return otherwise
	}
	if v == "single_use" {
		return config.SingleUse
	}
	object, ok := v.(map[string]any)
	if !ok || len(object) == 0 {
		r.mistyped(name, v, want)
		return config.SingleUse
	}
	inner := resultReader{members: object}
	stated := config.Lifetime{Duration: config.DefaultLifetimeDuration, Uses: config.DefaultLifetimeUses}
	if text, ok := inner.text("duration"); ok {
		d, err := time.ParseDuration(text)
		if err != nil || d < config.MinLifetimeDuration || d > config.MaxLifetimeDuration {
			r.mistyped(name+".duration", text, fmt.Sprintf("a duration of %s to %s", config.MinLifetimeDuration, config.MaxLifetimeDuration))
		}
		stated.Duration = d
	}
	if uses, ok := inner.integer("uses"); ok {
		if uses < 1 || uses > math.MaxInt32 {
			r.mistyped(name+".uses", object["uses"], fmt.Sprintf("1 to %d", math.MaxInt32))
			uses = 1
		}
		stated.Uses = int32(uses)
	}
	inner.rejectOthers()
	if inner.err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", name, inner.err)
	}
	return stated
}

// rejectOthers is called when every member that exists has been read.
func (r *resultReader) rejectOthers() {
	if r.err == nil && r.read != len(r.members) {
		r.err = fmt.Errorf("the object has %d members that are not known", len(r.members)-r.read)
	}
}

func jsonType(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case bool:
		return "a bool"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "an array or a set"
	case map[string]any:
		return "an object"
	default:
		return fmt.Sprintf("a %T", value)
	}
}
