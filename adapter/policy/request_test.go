package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestProperty(t *testing.T) {
	t.Parallel()
	text := func(s string) attribute.Value { return attribute.OfText(attribute.String, s) }
	request := &policy.Request{
		Subject: &policy.Subject{Properties: attribute.Map{{Name: "a", Value: text("first")}, {Name: "b", Value: text("b")}, {Name: "a", Value: text("last")}}},
		Action:  &policy.Action{Properties: attribute.Map{{Name: "a", Value: text("action's")}}},
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
