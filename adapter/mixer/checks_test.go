package mixer

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/gogo/protobuf/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/apikey"
	"github.com/tollgate-mesh/tollgate/template/checknothing"
	"github.com/tollgate-mesh/tollgate/template/listentry"
)

func template(t *testing.T, service string) checkTemplate {
	t.Helper()
	for _, template := range checkTemplates {
		if template.service == service {
			return template
		}
	}
	require.Fail(t, service)
	return checkTemplate{}
}

const (
	apiKeyService  = "apikey.HandleApiKeyService"
	listService    = "listentry.HandleListEntryService"
	nothingService = "checknothing.HandleCheckNothingService"
)

func stamp(seconds int64, nanos int32) *policyv1beta1.TimeStamp {
	return &policyv1beta1.TimeStamp{Value: &types.Timestamp{Seconds: seconds, Nanos: nanos}}
}

func TestDecodeAPIKeyReadsEveryField(t *testing.T) {
	got := call{}
	require.NoError(t, decodeCheck(string(mixertest.APIKey([]byte("params"), &apikey.InstanceMsg{
		Name: "i.instance.ns", Api: "bookings", ApiVersion: "v1", ApiOperation: "list", ApiKey: "abc", Timestamp: stamp(1_600_000_000, 5),
	})), decodeAPIKey, &got))
	when := attribute.OfTimestamp(1_600_000_000, 5)
	assert.Equal(t, call{hasConfig: true, typeURL: config.TypeURL, params: "params", request: policy.Request{
		Instance: "i.instance.ns", API: &policy.API{Name: "bookings", Version: "v1", Operation: "list", Key: "abc", Time: &when},
	}}, got)
}

func TestDecodeListEntryReadsEveryKindOfValue(t *testing.T) {
	for name, value := range fullRequest().Instance.Subject.Properties {
		got := call{}
		require.NoError(t, decodeCheck(string(mixertest.ListEntry([]byte("params"), value)), decodeListEntry, &got))
		want := fromGenerated(value)
		assert.Equal(t, call{hasConfig: true, typeURL: config.TypeURL, params: "params", request: policy.Request{
			Instance: "value.instance.istio-system", Value: &want,
		}}, got, name)
	}
	got := call{}
	require.NoError(t, decodeCheck(string(mixertest.ListEntry([]byte("params"), nil)), decodeListEntry, &got))
	assert.Nil(t, got.request.Value, "absent is not unknown")
}

func TestDecodeNothingReadsTheName(t *testing.T) {
	got := call{}
	require.NoError(t, decodeCheck(string(mixertest.Nothing([]byte("params"))), decodeNothing, &got))
	assert.Equal(t, call{hasConfig: true, typeURL: config.TypeURL, params: "params", request: policy.Request{Instance: "nothing.instance.istio-system"}}, got)
}

// instanceSamples are calls of all three templates in every form that might be read wrongly: what is one template's field 1 is
// another's too.
func instanceSamples() map[string]string {
	samples := wireSamples()
	samples["api key"] = string(mixertest.APIKey([]byte("params"), &apikey.InstanceMsg{
		Name: "i", Api: "a", ApiVersion: "b", ApiOperation: "c", ApiKey: "d", Timestamp: stamp(math.MaxInt64, math.MinInt32),
	}))
	for name, value := range fullRequest().Instance.Subject.Properties {
		samples["list entry "+name] = string(mixertest.ListEntry([]byte("params"), value))
	}
	samples["nothing"] = string(mixertest.Nothing([]byte("params")))
	samples["key twice"] = lengthDelimited(1, lengthDelimited(4, "a"), lengthDelimited(4, "b"))
	samples["key in two instances"] = lengthDelimited(1, lengthDelimited(4, "a")) + lengthDelimited(1, lengthDelimited(1, "b"))
	samples["key a number"] = lengthDelimited(1, varintField(4, 1))
	samples["key a group"] = lengthDelimited(1, "\x23\x24")
	samples["timestamp empty"] = lengthDelimited(1, lengthDelimited(5))
	samples["timestamp twice"] = lengthDelimited(1, lengthDelimited(5, lengthDelimited(1, varintField(1, 7))), lengthDelimited(5, lengthDelimited(1, varintField(2, 8))))
	samples["timestamp malformed"] = lengthDelimited(1, lengthDelimited(5, "\x0a\x7f"))
	samples["value twice"] = lengthDelimited(1, lengthDelimited(1, lengthDelimited(1, "a")), lengthDelimited(1, varintField(2, 5)))
	samples["value, then nothing"] = lengthDelimited(1, lengthDelimited(1, lengthDelimited(1, "a")), lengthDelimited(1))
	samples["value a number"] = lengthDelimited(1, varintField(1, 1))
	samples["name a number"] = lengthDelimited(1, varintField(instanceNameField, 1))
	samples["name twice"] = lengthDelimited(1, lengthDelimited(instanceNameField, "a"), lengthDelimited(instanceNameField, "b"))
	samples["overlong instance"] = overlong(1, overlong(1, overlong(1, "a"))+overlong(4, "abc"))
	samples["field of the future"] = lengthDelimited(1, lengthDelimited(99, "x"), varintField(98, 1))
	return samples
}

func TestDecodersAgreeWithGeneratedCode(t *testing.T) {
	for name, sample := range instanceSamples() {
		t.Run(name, func(t *testing.T) {
			// Every prefix is either a call or refused; none may be read past its end.
			for end := range min(len(sample), 400) {
				compareAll(t, sample[:end])
			}
			compareAll(t, sample)
		})
	}
}

func FuzzDecodeAPIKey(f *testing.F) {
	for _, sample := range instanceSamples() {
		f.Add([]byte(sample))
	}
	f.Fuzz(func(t *testing.T, data []byte) { compareAPIKey(t, string(data)) })
}

func FuzzDecodeListEntry(f *testing.F) {
	for _, sample := range instanceSamples() {
		f.Add([]byte(sample))
	}
	f.Fuzz(func(t *testing.T, data []byte) { compareListEntry(t, string(data)) })
}

func FuzzDecodeNothing(f *testing.F) {
	for _, sample := range instanceSamples() {
		f.Add([]byte(sample))
	}
	f.Fuzz(func(t *testing.T, data []byte) { compareNothing(t, string(data)) })
}

func compareAll(t *testing.T, data string) {
	t.Helper()
	compareAPIKey(t, data)
	compareListEntry(t, data)
	compareNothing(t, data)
}

// decodesAs decodes with our decoder, and compares the outcome and what all templates share with what the generated code found. It
// reports whether there is an instance to compare.
func decodesAs(t *testing.T, data string, decode func(string, *policy.Request) error, theirErr error, adapterConfig *types.Any, excused bool) (policy.Request, bool) {
	t.Helper()
	ours := call{}
	err := decodeCheck(data, decode, &ours)
	if (err == nil) != (theirErr == nil) {
		require.True(t, err == nil && excused, "ours: %v, generated: %v", err, theirErr)
		return policy.Request{}, false
	}
	if err != nil {
		require.ErrorIs(t, err, wire.ErrMalformed)
		return policy.Request{}, false
	}
	require.Equal(t, adapterConfig != nil, ours.hasConfig)
	require.Equal(t, adapterConfig.GetTypeUrl(), ours.typeURL)
	require.Equal(t, string(adapterConfig.GetValue()), ours.params)
	return ours.request, true
}

func compareAPIKey(t *testing.T, data string) {
	t.Helper()
	theirs := &apikey.HandleApiKeyRequest{}
	err := theirs.Unmarshal([]byte(data))
	request, ok := decodesAs(t, data, decodeAPIKey, err, theirs.AdapterConfig, false)
	if !ok {
		return
	}
	require.Equal(t, theirs.Instance != nil, request.API != nil)
	i := theirs.Instance
	if i == nil {
		return
	}
	require.Equal(t, i.Name, request.Instance)
	require.Equal(t, []string{i.Api, i.ApiVersion, i.ApiOperation, i.ApiKey}, []string{request.API.Name, request.API.Version, request.API.Operation, request.API.Key})
	require.Equal(t, i.Timestamp != nil, request.API.Time != nil)
	if i.Timestamp != nil && occurrences(data, 5) == 1 { // of several, the last counts here and all are merged there
		require.Equal(t, fromGenerated(&policyv1beta1.Value{Value: &policyv1beta1.Value_TimestampValue{TimestampValue: i.Timestamp}}), *request.API.Time)
	}
}

func compareListEntry(t *testing.T, data string) {
	t.Helper()
	theirs := &listentry.HandleListEntryRequest{}
	err := theirs.Unmarshal([]byte(data))
	stranger := false
	visitInstances(data, func(number int32, value []byte) {
		if number == 1 {
			walk(value, func(number int32, _ byte, _ []byte) { stranger = stranger || number < 1 || number > 10 })
		}
	})
	request, ok := decodesAs(t, data, decodeListEntry, err, theirs.AdapterConfig, stranger)
	if !ok {
		return
	}
	i := theirs.Instance
	require.Equal(t, i != nil && i.Value != nil, request.Value != nil)
	if i == nil {
		return
	}
	require.Equal(t, i.Name, request.Instance)
	if i.Value != nil && occurrences(data, 1) == 1 && (!stranger || request.Value.Kind() != attribute.Unknown) {
		require.Equal(t, fromGenerated(i.Value), *request.Value)
	}
}

func compareNothing(t *testing.T, data string) {
	t.Helper()
	theirs := &checknothing.HandleCheckNothingRequest{}
	err := theirs.Unmarshal([]byte(data))
	request, ok := decodesAs(t, data, decodeNothing, err, theirs.AdapterConfig, false)
	if ok && theirs.Instance != nil {
		require.Equal(t, policy.Request{Instance: theirs.Instance.Name}, request)
	}
}

// visitInstances visits the length-delimited fields of all instances of a call.
func visitInstances(data string, visit func(number int32, content []byte)) {
	walk([]byte(data), func(number int32, wire byte, instance []byte) {
		if number == 1 && wire == wireBytes {
			walk(instance, func(number int32, wire byte, content []byte) {
				if wire == wireBytes {
					visit(number, content)
				}
			})
		}
	})
}

func occurrences(data string, field int32) (n int) {
	visitInstances(data, func(number int32, _ []byte) {
		if number == field {
			n++
		}
	})
	return n
}

// What one template carries is nothing to the checks that want what another has: they deny, however open the handler's failures are.
func TestTemplatesAndChecks(t *testing.T) {
	abc := "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	keys := []*configpb.ApiKey{{Identity: "partner", Sha256: abc}}
	allowed := configpb.ListCheck_ALLOWED
	denied := configpb.ListCheck_DENIED
	handlers := map[string]*configpb.Params{
		"header":            {AuthKey: proto.String("abc")},
		"key":               {ApiKeys: []*configpb.ApiKeyCheck{{Keys: keys}}},
		"key in a property": {ApiKeys: []*configpb.ApiKeyCheck{{SubjectProperty: proto.String(config.AuthKeyProperty), Keys: keys}}},
		"allow list":        {Lists: []*configpb.ListCheck{{Listed: allowed, Entries: []string{"abc"}}}},
		"deny list":         {Lists: []*configpb.ListCheck{{Listed: denied, Entries: []string{"other"}}}},
		"listed property":   {Lists: []*configpb.ListCheck{{SubjectProperty: proto.String(config.AuthKeyProperty), Listed: allowed, Entries: []string{"abc"}}}},
		"any policy":        {Policy: []string{"package p\nallow = true"}, CheckMethod: proto.String("data.p.allow")},
	}
	calls := map[string]func(params []byte) (service string, call []byte){
		"authorization": func(params []byte) (string, []byte) {
			return checkTemplates[0].service, mixertest.Bytes(mixertest.Request(params, "abc"))
		},
		"apikey": func(params []byte) (string, []byte) {
			return apiKeyService, mixertest.APIKey(params, &apikey.InstanceMsg{ApiKey: "abc"})
		},
		"listentry": func(params []byte) (string, []byte) {
			return listService, mixertest.ListEntry(params, mixertest.Text("abc"))
		},
		"checknothing": func(params []byte) (string, []byte) { return nothingService, mixertest.Nothing(params) },
	}
	passes := map[string][]string{
		"authorization": {"header", "key in a property", "listed property", "any policy"},
		"apikey":        {"key", "any policy"},
		"listentry":     {"allow list", "deny list", "any policy"},
		"checknothing":  {"any policy"},
	}
	for name, params := range handlers {
		for kind, build := range calls {
			t.Run(kind+"/"+name, func(t *testing.T) {
				params := proto.CloneOf(params)
				params.Failure = openForAll
				service, call := build(mixertest.Params(params))
				seen := &ledger{}
				door := newTestDoor(t, seen)
				result := door.check(t.Context(), template(t, service), string(call))
				require.Nil(t, seen.decisions[0].Failure)
				if slices.Contains(passes[kind], name) {
					assert.Zero(t, result.Status.Code)
					assert.Equal(t, config.DefaultLifetimeDuration, result.ValidDuration)
					return
				}
				assert.EqualValues(t, config.PermissionDenied, result.Status.Code)
			})
		}
	}
	// A handler without checks passes nobody, least of all who says nothing.
	for kind, build := range calls {
		service, call := build(mixertest.Params(&configpb.Params{Name: "reports"}))
		seen := &ledger{}
		result := newTestDoor(t, seen).check(t.Context(), template(t, service), string(call))
		assert.EqualValues(t, config.Unavailable, result.Status.Code, kind)
		assert.Equal(t, config.ConfigurationFailure, seen.decisions[0].Failure.Class, kind)
	}
}

// The first check that knows the key says whose it is; the policy sees it, and so does the decision's record.
func TestIdentityReachesPoliciesAndDecisions(t *testing.T) {
	abc := "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	params := mixertest.Params(&configpb.Params{
		ApiKeys:     []*configpb.ApiKeyCheck{{Keys: []*configpb.ApiKey{{Identity: "partner", Sha256: abc}}}},
		Policy:      []string{`package p` + "\n" + `allow { input.key == "partner"; input.api.operation == "list"; not input.subject.user }`},
		CheckMethod: proto.String("data.p.allow"),
	})
	ask := func(instance *apikey.InstanceMsg) policy.Decision {
		seen := &ledger{}
		newTestDoor(t, seen).check(t.Context(), template(t, apiKeyService), string(mixertest.APIKey(params, instance)))
		return seen.decisions[0]
	}
	d := ask(&apikey.InstanceMsg{ApiKey: "abc", ApiOperation: "list"})
	assert.True(t, d.Allowed())
	assert.Equal(t, "partner", d.Identity)
	d = ask(&apikey.InstanceMsg{ApiKey: "abc", ApiOperation: "drop"})
	assert.False(t, d.Allowed())
	assert.Equal(t, "partner", d.Identity, "whoever is denied later still has a key")
	d = ask(&apikey.InstanceMsg{ApiKey: "other", ApiOperation: "list"})
	assert.False(t, d.Allowed())
	assert.Empty(t, d.Identity)
}

// FuzzTemplates sends arbitrary bytes as calls of the other templates: never a panic, and an allow only with a configuration that
// decodes.
func FuzzTemplates(f *testing.F) {
	for _, sample := range instanceSamples() {
		f.Add([]byte(sample))
	}
	secret := []*configpb.ApiKey{{Identity: "i", Sha256: strings.Repeat("ab", 32)}}
	keyed := mixertest.Params(&configpb.Params{ApiKeys: []*configpb.ApiKeyCheck{{Keys: secret}}})
	listed := mixertest.Params(&configpb.Params{Lists: []*configpb.ListCheck{{Listed: configpb.ListCheck_ALLOWED, Entries: []string{unguessable}}}})
	f.Add(mixertest.APIKey(keyed, &apikey.InstanceMsg{ApiKey: "x"}))
	f.Add(mixertest.ListEntry(listed, mixertest.Text("x")))
	f.Add(mixertest.Nothing(listed))
	door := fuzzDoor()
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, service := range []string{apiKeyService, listService, nothingService} {
			result := door.check(t.Context(), template(t, service), string(data))
			require.NotEqualValues(t, 13, result.Status.Code)
			if result.Status.Code != 0 {
				continue
			}
			require.NotZero(t, result.ValidDuration)
			require.NotZero(t, result.ValidUseCount)
			params := ""
			walk(data, func(number int32, wire byte, content []byte) {
				if number == 2 && wire == wireBytes {
					walk(content, func(number int32, wire byte, value []byte) {
						if protowire.Number(number) == 2 && wire == wireBytes {
							params = string(value)
						}
					})
				}
			})
			handler, problems := config.Parse([]byte(params))
			require.True(t, len(problems) == 0 && handler.HasChecks() || result.ValidDuration < 0, "an allow that nothing explains")
		}
	})
}
