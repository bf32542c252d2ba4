package config_test

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

const shadowField, candidateField = 21, 1

// What this version does not know is a problem of whatever it stands in, and a candidate decides nothing.
func TestUnknownFieldsOfCandidates(t *testing.T) {
	t.Parallel()
	key := text(authKey, "abc")
	candidate := text(candidateField, key)
	for name, c := range map[string]struct {
		params, handler, shadow string
	}{
		"in the candidate":         {key + text(shadowField, text(candidateField, key+varint(99, 1))), "", "shadow.candidate.(field 99)"},
		"deep in the candidate":    {key + text(shadowField, text(candidateField, key+text(failure, varint(99, 1)))), "", "shadow.candidate.failure.(field 99)"},
		"a mode of the candidate":  {key + text(shadowField, text(candidateField, key+text(failure, varint(failureTimeout, 9)))), "", "shadow.candidate.failure.timeout"},
		"in the section":           {key + text(shadowField, candidate+varint(99, 1)), "", "shadow.(field 99)"},
		"beside the section":       {key + text(shadowField, candidate) + varint(99, 1), "(field 99)", ""},
		"in the section's place":   {key + varint(shadowField, 1), "shadow", ""},
		"in the candidate's place": {key + text(shadowField, varint(candidateField, 1)), "", "shadow.candidate"},
	} {
		handler, problems := config.Parse([]byte(c.params))
		found := map[string]config.Problems{"handler": problems, "shadow": problemsOf(handler)}
		for of, field := range map[string]string{"handler": c.handler, "shadow": c.shadow} {
			if field == "" {
				assert.Empty(t, found[of], "%s: %s", name, of)
			} else if assert.NotEmpty(t, found[of], "%s: %s", name, of) {
				assert.Equal(t, field, found[of][0].Field, "%s: %s", name, of)
			}
		}
	}
}

// Trying something changes nothing about what decides, and what was tried is recognised when it decides.
func TestFingerprintsOfCandidates(t *testing.T) {
	t.Parallel()
	parse := func(params *configpb.Params) *config.Handler {
		h, problems := config.Parse(encode(t, params))
		require.Empty(t, problems)
		return h
	}
	before := &configpb.Params{Name: "shop", AuthKey: proto.String("abc"), DecisionLog: &configpb.DecisionLog{Record: configpb.DecisionLog_ALL}}
	after, _ := proto.Clone(before).(*configpb.Params)
	after.AuthKey, after.Require = proto.String("def"), configpb.Params_ANY
	tried, _ := proto.Clone(before).(*configpb.Params)
	tried.Shadow = &configpb.Shadow{Candidate: &configpb.Params{AuthKey: proto.String("def"), Require: configpb.Params_ANY}}

	h := parse(tried)
	require.NotNil(t, h.Shadow)
	assert.Equal(t, parse(before).Fingerprint, h.Fingerprint)
	assert.Equal(t, parse(after).Fingerprint, h.Shadow.Candidate.Fingerprint)
	want := parse(after)
	assert.Equal(t, want, h.Shadow.Candidate)
	h.Shadow = nil
	assert.Equal(t, parse(before), h)
}

// Candidates in candidates are not read, however many there are.
func TestDeepCandidates(t *testing.T) {
	t.Parallel()
	params := text(authKey, "abc")
	for range 3000 {
		params = text(authKey, "abc") + text(shadowField, text(candidateField, params))
	}
	handler, problems := config.Parse([]byte(params))
	assert.Empty(t, problems)
	assert.Equal(t, []string{"shadow.candidate.shadow: is set; a candidate has no candidate of its own, so remove it here"}, shadowProblems(handler))
}

// A section of the configuration that makes checks and is not counted would let pass what it was to stop.
func TestEveryCheckIsCounted(t *testing.T) {
	t.Parallel()
	noChecks := map[string]bool{
		"Name": true, "Fingerprint": true, "Require": true, "Modes": true, "Allow": true, "Deny": true, "Denial": true, "EvaluationTimeout": true,
		"Report": true, "DecisionLog": true, "Shadow": true,
		// They are for quota calls, which are asked for by themselves.
		"Quotas": true,
	}
	handler := reflect.TypeFor[config.Handler]()
	for i := range handler.NumField() {
		field := handler.Field(i)
		if noChecks[field.Name] {
			continue
		}
		h := &config.Handler{}
		value := reflect.ValueOf(h).Elem().Field(i)
		want := 1
		if field.Type.Kind() == reflect.Slice {
			want = 3
			value.Set(reflect.MakeSlice(field.Type, want, want))
		} else {
			value.Set(reflect.New(field.Type.Elem()))
		}
		assert.Equal(t, want, h.CheckCount(), "count %s in Handler.CheckCount, or say here that it makes no checks", field.Name)
	}
}
