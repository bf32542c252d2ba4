package rego_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

func str(s string) attribute.Value { return attribute.OfText(attribute.String, s) }

func pointer(v attribute.Value) *attribute.Value { return &v }

// properties is a request whose subject has these properties alone.
func properties(all ...attribute.Entry) *policy.Request {
	return &policy.Request{Subject: &policy.Subject{Properties: all}}
}

// The input document, as the policy itself shows it: keys sorted, numbers as they are. V0 has addresses as Mixer's adapter does.
func TestInput(t *testing.T) {
	t.Parallel()
	one := func(v attribute.Value) *policy.Request { return properties(attribute.Entry{Name: "x", Value: v}) }
	for _, test := range []struct {
		name    string
		request *policy.Request
		want    string
		// wantV0 is where V0 differs.
		wantV0 string
	}{
		{"nothing", &policy.Request{}, `{"action":{},"subject":{}}`, ""},
		{"the instance's name is no part", &policy.Request{Instance: "i"}, `{"action":{},"subject":{}}`, ""},
		{"empties", &policy.Request{Subject: &policy.Subject{}, Action: &policy.Action{}}, `{"action":{},"subject":{}}`, ""},
		{"empty properties", &policy.Request{
			Subject: &policy.Subject{Properties: attribute.Map{}}, Action: &policy.Action{Properties: attribute.Map{}},
		}, `{"action":{},"subject":{}}`, ""},
		{"every field", &policy.Request{
			Subject: &policy.Subject{User: "u", Groups: "g", Properties: attribute.Map{{Name: "p", Value: str("sv")}}},
			Action: &policy.Action{
				Namespace: "n", Service: "s", Method: "m", Path: "/p", Properties: attribute.Map{{Name: "p", Value: str("av")}},
			},
		}, `{"action":{"method":"m","namespace":"n","path":"/p","properties":{"p":"av"},"service":"s"},"subject":{"groups":["g"],"properties":{"p":"sv"},"user":"u"}}`, ""},
		{"groups are one", &policy.Request{Subject: &policy.Subject{Groups: "a,b c"}}, `{"action":{},"subject":{"groups":["a,b c"]}}`, ""},
		{"action alone", &policy.Request{Action: &policy.Action{Path: "/"}}, `{"action":{"path":"/"},"subject":{}}`, ""},
		{"a token's claims", &policy.Request{Claims: map[string]any{
			"sub": "a", "n": json.Number("12345678901234567890"), "f": json.Number("1.50"), "yes": true, "null": nil, "o": map[string]any{"l": []any{"x", json.Number("1")}},
		}}, `{"action":{},"subject":{},"token":{"f":1.50,"n":12345678901234567890,"null":null,"o":{"l":["x",1]},"sub":"a","yes":true}}`, ""},
		{"a token without claims", &policy.Request{Claims: map[string]any{}}, `{"action":{},"subject":{},"token":{}}`, ""},
		{"a list entry's value", &policy.Request{Value: pointer(str("v"))}, `{"action":{},"subject":{},"value":"v"}`, ""},
		{"an empty value", &policy.Request{Value: pointer(str(""))}, `{"action":{},"subject":{},"value":""}`, ""},
		{"an address as value", &policy.Request{Value: pointer(attribute.OfIP("\x0a\x00\x00\xff"))}, `{"action":{},"subject":{},"value":"10.0.0.255"}`, `{"action":{},"subject":{},"value":"CgAA/w=="}`},
		{"an API call", &policy.Request{API: &policy.API{Name: "n", Version: "v", Operation: "o", Key: "k", Time: pointer(attribute.OfTimestamp(0, 0))}}, `{"action":{},"api":{"key":"k","name":"n","operation":"o","timestamp":"1970-01-01T00:00:00Z","version":"v"},"subject":{}}`, ""},
		{"an empty API call", &policy.Request{API: &policy.API{}}, `{"action":{},"api":{},"subject":{}}`, ""},
		{"whose key it is", &policy.Request{Identity: "partner"}, `{"action":{},"key":"partner","subject":{}}`, ""},
		{"string", one(str("v")), `"v"`, ""},
		{"empty string", one(str("")), `""`, ""},
		{"quotes and controls", one(str("\"\\\n\x00<")), `"\"\\\n\u0000\u003c"`, ""},
		{"email address", one(attribute.OfText(attribute.Email, "a@b")), `"a@b"`, ""},
		{"DNS name", one(attribute.OfText(attribute.DNSName, "a.b")), `"a.b"`, ""},
		{"URI", one(attribute.OfText(attribute.URI, "http://a/b")), `"http://a/b"`, ""},
		{"int64", one(attribute.OfInt64(-5)), `-5`, ""},
		{"zero", one(attribute.OfInt64(0)), `0`, ""},
		{"largest int64", one(attribute.OfInt64(math.MaxInt64)), `9223372036854775807`, ""},
		{"smallest int64", one(attribute.OfInt64(math.MinInt64)), `-9223372036854775808`, ""},
		{"double", one(attribute.OfDouble(1.5)), `1.5`, ""},
		{"double that is whole", one(attribute.OfDouble(3)), `3`, ""},
		{"large double", one(attribute.OfDouble(1e21)), `1e+21`, ""},
		{"largest double", one(attribute.OfDouble(math.MaxFloat64)), `1.7976931348623157e+308`, ""},
		{"smallest double", one(attribute.OfDouble(math.SmallestNonzeroFloat64)), `5e-324`, ""},
		{"double as JSON writes it", one(attribute.OfDouble(1e20)), `100000000000000000000`, ""},
		{"small double", one(attribute.OfDouble(1e-7)), `1e-7`, ""},
		{"negative zero", one(attribute.OfDouble(math.Copysign(0, -1))), `-0`, ""},
		{"true", one(attribute.OfBool(true)), `true`, ""},
		{"false", one(attribute.OfBool(false)), `false`, ""},
		{"IPv4", one(attribute.OfIP("\x0a\x00\x00\xff")), `"10.0.0.255"`, `"CgAA/w=="`},
		{"IPv6", one(attribute.OfIP("\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01")), `"2001:db8::1"`, `"IAENuAAAAAAAAAAAAAAAAQ=="`},
		{"IPv4 in IPv6", one(attribute.OfIP("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01")), `"10.0.0.1"`, `"AAAAAAAAAAAAAP//CgAAAQ=="`},
		{"timestamp", one(attribute.OfTimestamp(1_600_000_000, 0)), `"2020-09-13T12:26:40Z"`, ""},
		{"timestamp with nanoseconds", one(attribute.OfTimestamp(1_600_000_000, 120_000_000)), `"2020-09-13T12:26:40.12Z"`, ""},
		{"timestamp before 1970", one(attribute.OfTimestamp(-1, 999_999_999)), `"1969-12-31T23:59:59.999999999Z"`, ""},
		{"the zero timestamp", one(attribute.OfTimestamp(0, 0)), `"1970-01-01T00:00:00Z"`, ""},
		{"duration", one(attribute.OfDuration(1, 500_000_000)), `1500000000`, ""},
		{"negative duration", one(attribute.OfDuration(-1, -1)), `-1000000001`, ""},
		{"bytes that are not UTF-8", one(str("a\xffb\xc3")), `"a` + "\uFFFD" + `b` + "\uFFFD" + `"`, ""},
		{"each byte by itself", one(str("\xff\xfe")), `"` + "\uFFFD\uFFFD" + `"`, ""},
		{"of several the last counts", properties(attribute.Entry{Name: "x", Value: str("first")}, attribute.Entry{Name: "x", Value: attribute.OfInt64(2)}), `2`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			shown := "input"
			if test.want[0] != '{' {
				shown = "input.subject.properties.x"
			}
			for _, version := range []config.RegoVersion{config.RegoV0, config.RegoV1} {
				want := test.want
				if version == config.RegoV0 && test.wantV0 != "" {
					want = test.wantV0
				}
				v := compile(t, version, "data.p.allow", `package p
allow := {"allow": true, "reason": json.marshal(`+shown+`)}`).Evaluate(t.Context(), test.request)
				require.Nil(t, v.Failure)
				assert.Equal(t, want, v.Reason)
			}
		})
	}
}

// Texts of the fields are made UTF-8 as well, and so are names.
func TestInputIsUTF8(t *testing.T) {
	t.Parallel()
	v := compile(t, config.RegoV0, "data.p.allow", `package p
allow = {"allow": true, "reason": json.marshal(input)}`).Evaluate(t.Context(), &policy.Request{
		Subject: &policy.Subject{User: "\xff", Groups: "\xff", Properties: attribute.Map{{Name: "\xff", Value: str("\xff")}}},
		Action:  &policy.Action{Namespace: "\xff", Service: "\xff", Method: "\xff", Path: "\xff"},
	})
	require.Nil(t, v.Failure)
	const r = "\uFFFD"
	assert.JSONEq(t, `{"action":{"method":"`+r+`","namespace":"`+r+`","path":"`+r+`","service":"`+r+`"},"subject":{"groups":["`+r+
		`"],"properties":{"`+r+`":"`+r+`"},"user":"`+r+`"}}`, v.Reason)
}

// A value without a form in Rego is an error even where the policy does not look at it: left out, it could not be denied.
func TestInputThatRegoCannotHave(t *testing.T) {
	t.Parallel()
	check := compile(t, config.RegoV0, "data.p.allow", "package p\nallow = true")
	for name, value := range map[string]attribute.Value{
		"unknown":            {},
		"NaN":                attribute.OfDouble(math.NaN()),
		"infinity":           attribute.OfDouble(math.Inf(1)),
		"negative infinity":  attribute.OfDouble(math.Inf(-1)),
		"broken address":     attribute.OfIP("abc"),
		"timestamp of nanos": attribute.OfTimestamp(0, -1),
		"before the year 1":  attribute.OfTimestamp(-62_135_596_801, 0),
		"after year 9999":    attribute.OfTimestamp(253_402_300_800, 0),
		"endless duration":   attribute.OfDuration(math.MaxInt64, 0),
	} {
		for _, request := range []*policy.Request{
			properties(attribute.Entry{Name: "fine", Value: str("x")}, attribute.Entry{Name: "hunter2", Value: value}),
			{Action: &policy.Action{Properties: attribute.Map{{Name: "hunter2", Value: value}}}},
			{Value: &value},
			{API: &policy.API{Key: "hunter2", Time: &value}},
		} {
			v := check.Evaluate(t.Context(), request)
			require.NotNil(t, v.Failure, name)
			assert.Equal(t, config.EvaluationError, v.Failure.Class)
			assert.NotContains(t, v.Failure.Detail, "hunter2")
		}
	}
}
