package config_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// The strings are metric labels and documented; dashboards and alerts depend on them.
func TestFailureClassStringsAreStable(t *testing.T) {
	t.Parallel()
	var names []string
	for _, class := range config.FailureClasses() {
		names = append(names, class.String())
	}
	assert.Equal(t, []string{
		"configuration", "policy_not_loaded", "evaluation_error", "undefined_result", "timeout", "dependency_down", "overload", "panic",
		"malformed_request",
	}, names)
	assert.Equal(t, "unknown", config.FailureClass(200).String())
}

// The classes and the fields of the failure section are the same words, but for the one class that cannot be opened.
func TestEveryFailureClassHasAField(t *testing.T) {
	t.Parallel()
	fields := (&configpb.Failure{}).ProtoReflect().Descriptor().Fields()
	var names, classes []string
	for i := range fields.Len() {
		names = append(names, string(fields.Get(i).Name()))
	}
	for _, class := range config.FailureClasses() {
		if class != config.MalformedRequest {
			classes = append(classes, class.String())
		}
	}
	assert.ElementsMatch(t, classes, names)
}

func TestModes(t *testing.T) {
	t.Parallel()
	var zero config.Modes
	for _, class := range config.FailureClasses() {
		assert.Equal(t, config.Closed, zero.Of(class), class)
		opened := zero.With(class, config.Open)
		want := config.Open
		if class == config.MalformedRequest {
			want = config.Closed
		}
		assert.Equal(t, want, opened.Of(class), class)
		for _, other := range config.FailureClasses() {
			if other != class {
				assert.Equal(t, config.Closed, opened.Of(other), "%s by opening %s", other, class)
			}
		}
		assert.Equal(t, config.Closed, opened.With(class, config.Closed).Of(class), class)
		assert.Equal(t, config.Closed, zero.Of(class), "With must return a copy")
	}
	unknown := config.FailureClass(200)
	assert.Equal(t, zero, zero.With(unknown, config.Open))
	assert.Equal(t, config.Closed, zero.Of(unknown))
	assert.Equal(t, config.Unavailable, zero.ClosedCode())
	assert.Equal(t, "all closed", zero.String())
	assert.Equal(t, "open: timeout, panic", zero.With(config.Panic, config.Open).With(config.Timeout, config.Open).String())
	assert.Equal(t, "closed open", config.Closed.String()+" "+config.Open.String())
}

// Every code of Denial is one that a decision may carry, and INTERNAL is none of them.
func TestDenialCodes(t *testing.T) {
	t.Parallel()
	values := configpb.Denial_CODE_UNSPECIFIED.Descriptor().Values()
	for i := 1; i < values.Len(); i++ {
		name, number := string(values.Get(i).Name()), values.Get(i).Number()
		code, ok := config.DenialCode(name)
		assert.True(t, ok, name)
		assert.EqualValues(t, number, code, name)
		assert.Equal(t, name, code.String())
	}
	for _, name := range []string{"", "OK", "UNAVAILABLE", "INTERNAL", "UNKNOWN", "CODE_UNSPECIFIED", "13", "permission_denied"} {
		_, ok := config.DenialCode(name)
		assert.False(t, ok, name)
	}
	assert.Equal(t, "UNKNOWN", config.Code(13).String())
}

func TestSingleUseSurvivesMixersMinimum(t *testing.T) {
	t.Parallel()
	assert.False(t, config.SingleUse.Reusable())
	assert.Negative(t, config.SingleUse.Duration)
	assert.Positive(t, config.SingleUse.Uses)
	for _, l := range []config.Lifetime{{}, {Duration: 1}, {Uses: 1}, {Duration: -1, Uses: 1}, {Duration: 1, Uses: -1}} {
		assert.False(t, l.Reusable(), "%+v", l)
	}
	assert.True(t, config.Lifetime{Duration: 1, Uses: 1}.Reusable())
}

func TestProblemsAsAnError(t *testing.T) {
	t.Parallel()
	var problems config.Problems
	assert.Empty(t, problems.Error())
	for range 20 {
		problems = append(problems, config.Problem{Field: "a", Text: "b"})
	}
	assert.Equal(t, strings.Repeat("a: b; ", 19)+"a: b", problems.Error())
	problems = append(problems, config.Problem{Field: "c", Text: "d"}, config.Problem{Field: "e", Text: "f"})
	assert.Equal(t, strings.Repeat("a: b; ", 19)+"a: b; and 2 more", problems.Error())
}

// Whatever an operator wrote, a problem is one short line.
func TestProblemsQuoteWhatTheyShow(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 100)
	_, problems := config.Parse([]byte(text(nameField, "\x1b[31m\n") + text(checkMethod, long)))
	assert.Equal(t, []string{
		`name: "\x1b[31m\n" has the character '\x1b'; use a-z, 0-9, '.', '_' and '-'`,
		`policy: is missing; check_method "` + strings.Repeat("é", 32) + `"… (200 bytes) needs the Rego module that defines it`,
	}, []string{problems[0].String(), problems[1].String()})
}
