package policy_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestProperty(t *testing.T) {
	t.Parallel()
	text := func(s string) policy.Value { return policy.TextValue(policy.StringValue, s) }
	request := &policy.Request{
		Subject: &policy.Subject{Properties: policy.Properties{{"a", text("first")}, {"b", text("b")}, {"a", text("last")}}},
		Action:  &policy.Action{Properties: policy.Properties{{"a", text("action's")}}},
	}
	for _, test := range []struct {
		request  *policy.Request
		property config.Property
		want     string
		ok       bool
	}{
		{request, config.Property{Name: "a"}, "last", true},
		{request, config.Property{Name: "b"}, "b", true},
		{request, config.Property{Name: "A"}, "", false},
		{request, config.Property{Action: true, Name: "a"}, "action's", true},
		{request, config.Property{Action: true, Name: "b"}, "", false},
		{&policy.Request{}, config.Property{Name: "a"}, "", false},
		{&policy.Request{}, config.Property{Action: true, Name: "a"}, "", false},
	} {
		value, ok := test.request.Property(test.property)
		got, _ := value.Text()
		assert.Equal(t, test.ok, ok, test.property)
		assert.Equal(t, test.want, got, test.property)
	}
}

// Each kind keeps what it was given, and only texts are texts: a number must not equal a credential.
func TestValues(t *testing.T) {
	t.Parallel()
	for _, kind := range []policy.ValueKind{policy.StringValue, policy.EmailValue, policy.DNSNameValue, policy.URIValue} {
		v := policy.TextValue(kind, "x")
		text, ok := v.Text()
		assert.Equal(t, kind, v.Kind())
		assert.Equal(t, "x", text)
		assert.True(t, ok)
	}
	for kind, v := range map[policy.ValueKind]policy.Value{
		policy.UnknownValue:   {},
		policy.Int64Value:     policy.Int64(math.MinInt64),
		policy.DoubleValue:    policy.Double(1.5),
		policy.BoolValue:      policy.Bool(true),
		policy.IPValue:        policy.IP("abcd"),
		policy.TimestampValue: policy.Timestamp(1, 2),
		policy.DurationValue:  policy.Duration(1, 2),
	} {
		text, ok := v.Text()
		assert.Equal(t, kind, v.Kind())
		assert.Empty(t, text)
		assert.False(t, ok)
		assert.NotEmpty(t, kind.String())
		if kind != policy.UnknownValue {
			assert.Equal(t, policy.UnknownValue, policy.TextValue(kind, "x").Kind(), "no text is a %s", kind)
		}
	}
	assert.Equal(t, int64(math.MinInt64), policy.Int64(math.MinInt64).Int64())
	assert.InDelta(t, -1.5, policy.Double(-1.5).Double(), 0)
	assert.True(t, math.IsNaN(policy.Double(math.NaN()).Double()))
	assert.True(t, policy.Bool(true).Bool())
	assert.False(t, policy.Bool(false).Bool())
	assert.Equal(t, "1.2.3.4", policy.IP("\x01\x02\x03\x04").IP().String())
	assert.Equal(t, time.Date(1970, 1, 1, 0, 0, 1, 2, time.UTC), policy.Timestamp(1, 2).Time())
	assert.Equal(t, -1500*time.Millisecond, policy.Duration(-1, -500_000_000).Duration())
}

func TestValuesThatAreNone(t *testing.T) {
	t.Parallel()
	const second = int32(time.Second)
	for _, v := range []policy.Value{
		policy.IP(""), policy.IP("abc"), policy.IP("abcde"), policy.IP("0123456789abcdef0"),
		policy.Timestamp(0, -1), policy.Timestamp(0, second),
		policy.Duration(0, second), policy.Duration(0, -second), policy.Duration(math.MaxInt64, 0), policy.Duration(math.MinInt64, 0),
		policy.Duration(math.MaxInt64/int64(time.Second), 999_999_999),
	} {
		assert.Equal(t, policy.UnknownValue, v.Kind())
	}
	longest := policy.Duration(math.MaxInt64/int64(time.Second)-1, second-1)
	assert.Equal(t, policy.DurationValue, longest.Kind())
	assert.Positive(t, longest.Duration())
}
