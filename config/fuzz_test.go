package config_test

import (
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

func FuzzParse(f *testing.F) {
	for _, c := range loadCases(f) {
		f.Add(encode(f, c.message))
	}
	for _, p := range allPlaces() {
		f.Add(p.wrap(varint(1234, 1)))
		f.Add(p.wrap(varint(1, 99)))
	}
	f.Add([]byte(overlong(authKey, "abc")))
	f.Fuzz(func(t *testing.T, params []byte) { requireInvariants(t, params) })
}

// requireInvariants holds for whatever bytes come.
func requireInvariants(t *testing.T, params []byte) {
	t.Helper()
	handler, problems := config.Parse(params)
	require.NotNil(t, handler)
	require.NotEmpty(t, handler.Name)
	require.LessOrEqual(t, len(handler.Name), config.MaxNameBytes)
	require.Len(t, handler.Fingerprint, 12)
	require.LessOrEqual(t, len(problems), 102)
	require.Equal(t, expectedModes(params), handler.Modes)
	if !handler.Report.HideAll {
		for _, pattern := range slices.Concat(handler.Report.Only, handler.Report.Drop, handler.Report.Mask) {
			require.NoError(t, config.CheckPattern(pattern))
		}
	}
	if len(problems) > 0 {
		for _, problem := range problems {
			require.NotEmpty(t, problem.Field)
			require.NotEmpty(t, problem.Text)
			require.NotContains(t, problem.String(), "\n")
		}
		return
	}

	require.Empty(t, strings.Trim(handler.Name, "abcdefghijklmnopqrstuvwxyz0123456789._-"))
	require.True(t, handler.Allow.Reusable() || handler.Allow == config.SingleUse, "%+v", handler.Allow)
	require.True(t, handler.Deny.Reusable() || handler.Deny == config.Lifetime{}, "%+v", handler.Deny)
	require.LessOrEqual(t, handler.Allow.Duration, config.MaxLifetimeDuration)
	require.LessOrEqual(t, handler.Deny.Duration, config.MaxLifetimeDuration)
	require.GreaterOrEqual(t, handler.EvaluationTimeout, time.Duration(0))
	require.LessOrEqual(t, handler.EvaluationTimeout, config.MaxEvaluationTimeout)
	_, ok := config.DenialCode(handler.Denial.Code.String())
	require.True(t, ok, handler.Denial.Code)
	require.NoError(t, config.CheckMessage(handler.Denial.Message))
	if response := handler.Denial.HTTP; response != nil {
		require.True(t, response.Status == 0 || response.Status >= http.StatusMultipleChoices && response.Status < 600)
		for key, value := range response.Headers {
			require.NotContains(t, key+value, "\n")
		}
	}
	for _, check := range handler.Headers {
		require.NotEmpty(t, check.Name)
		require.NotEmpty(t, check.Property.Name)
		require.Positive(t, len(check.Digests)+len(check.Secrets))
	}
	for _, check := range handler.JWT {
		require.NotEmpty(t, check.Name)
		require.NotEmpty(t, check.Property.Name)
		require.NotEmpty(t, check.Keys)
		require.NotEmpty(t, check.Issuers)
		require.NotContains(t, check.Algorithms, "none")
		require.GreaterOrEqual(t, check.Leeway, time.Duration(0))
		require.NotContains(t, check.Realm, "\n")
		var patterns config.Patterns
		for _, rule := range check.Claims {
			require.NotEmpty(t, rule.Path)
			require.True(t, len(rule.Values) > 0 || rule.Pattern != "" || rule.Contains != "")
			require.NoError(t, patterns.Add(rule.Pattern))
		}
	}
	for _, basic := range handler.Basic {
		require.NotEmpty(t, basic.Name)
		require.NotEmpty(t, basic.Property.Name)
		require.NotEmpty(t, basic.Users)
		require.NotContains(t, basic.Realm, `"`)
	}
	for _, list := range handler.Lists {
		require.NotEmpty(t, list.Name)
		require.NotEqual(t, len(list.Entries) > 0, list.Source != "")
		require.GreaterOrEqual(t, list.Lifetime, time.Duration(0))
		require.LessOrEqual(t, list.Lifetime, config.MaxLifetimeDuration)
	}
	for _, keys := range handler.APIKeys {
		require.NotEmpty(t, keys.Name)
		require.Positive(t, len(keys.Keys)+len(keys.Secrets))
		for _, key := range keys.Keys {
			require.NotEmpty(t, key.Identity)
			require.NotEqual(t, config.Digest(sha256.Sum256(nil)), key.Digest)
		}
	}
	if handler.Rego != nil {
		require.NotEqual(t, handler.Rego.Source == "", len(handler.Rego.Modules) == 0)
		require.NotEmpty(t, handler.Rego.Decision)
	}

	// What is written anew, with its maps in another order, is the same handler.
	message := &configpb.Params{}
	require.NoError(t, proto.Unmarshal(params, message))
	again, err := proto.Marshal(message)
	require.NoError(t, err)
	same, problems := config.Parse(again)
	require.Empty(t, problems)
	require.Equal(t, handler, same)
}

// failClosed is what `fail_close: true` alone makes.
var failClosed = func() config.Modes {
	handler, _ := config.Parse([]byte(varint(failClose, 1)))
	return handler.Modes
}()

// expectedModes reads the failure modes a second time, in another way: by the document and not by the code.
func expectedModes(params []byte) config.Modes {
	message := &configpb.Params{}
	if proto.Unmarshal(params, message) != nil {
		return config.Modes{}
	}
	for rest := []byte(message.ProtoReflect().GetUnknown()); len(rest) > 0; {
		number, _, size := protowire.ConsumeField(rest)
		if number == failClose || number == failure {
			return config.Modes{}
		}
		rest = rest[size:]
	}
	modes := config.Modes{}
	if message.FailClose != nil {
		switch {
		case message.Failure != nil:
		case message.GetFailClose():
			return failClosed
		default:
			for class := config.ConfigurationFailure; class <= config.DependencyDown; class++ {
				modes = modes.With(class, config.Open)
			}
		}
		return modes
	}
	section := message.GetFailure().ProtoReflect()
	if len(section.GetUnknown()) > 0 {
		return modes
	}
	for class := config.ConfigurationFailure; class <= config.Panic; class++ {
		// The field is called as the class is.
		field := section.Descriptor().Fields().ByName(protoreflect.Name(class.String()))
		number := section.Get(field).Enum()
		if number > open || number < 0 {
			return config.Modes{}
		}
		if number == open {
			modes = modes.With(class, config.Open)
		}
	}
	return modes
}
