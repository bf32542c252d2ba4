package mixer

import (
	"context"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gogo/protobuf/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	policyquota "github.com/tollgate-mesh/tollgate/adapter/policy/quota"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/quota"
)

func fullQuotaRequest() *quota.HandleQuotaRequest {
	return &quota.HandleQuotaRequest{
		Instance:      &quota.InstanceMsg{Name: mixertest.QuotaInstance, Dimensions: fullRequest().Instance.Subject.Properties},
		AdapterConfig: &types.Any{TypeUrl: config.TypeURL, Value: []byte("params")},
		DedupId:       "12requests",
		QuotaRequest: &v1beta1.QuotaRequest{Quotas: map[string]v1beta1.QuotaRequest_QuotaParams{
			mixertest.QuotaInstance: {Amount: 12, BestEffort: true}, "other": {Amount: 99},
		}},
	}
}

func marshal(tb testing.TB, message interface{ Marshal() ([]byte, error) }) string {
	tb.Helper()
	encoded, err := message.Marshal()
	require.NoError(tb, err)
	return string(encoded)
}

func TestDecodeQuotaReadsEveryField(t *testing.T) {
	request := fullQuotaRequest()
	got := quotaCall{}
	require.NoError(t, decodeQuota(marshal(t, request), &got))
	assert.Equal(t, call{hasConfig: true, typeURL: config.TypeURL, params: "params", request: policy.Request{Instance: mixertest.QuotaInstance, Quota: &got.quota}}, got.call)
	assert.True(t, got.asks)
	want := map[string]attribute.Value{}
	for name, value := range request.Instance.Dimensions {
		want[name] = fromGenerated(value)
	}
	assert.Equal(t, want, byName(got.quota.Dimensions))
	got.quota.Dimensions = nil
	assert.Equal(t, policy.Quota{Amount: 12, BestEffort: true, DedupID: "12requests"}, got.quota)
}

func quotaSamples(tb testing.TB) map[string]string {
	tb.Helper()
	samples := instanceSamples()
	full := marshal(tb, fullQuotaRequest())
	samples["quota"] = full
	name := lengthDelimited(instanceNameField, "i")
	asked := func(instance string, fields ...string) string {
		return lengthDelimited(1, lengthDelimited(1, instance), lengthDelimited(2, fields...))
	}
	samples["quota, the request first"] = lengthDelimited(4, asked("i", varintField(1, 7), varintField(2, 1))) + lengthDelimited(1, name)
	samples["quota in two parts"] = lengthDelimited(1, name) + lengthDelimited(4, asked("i", varintField(1, 7))) + lengthDelimited(4, asked("i", varintField(2, 1)))
	samples["quota in two parts, the first cut"] = lengthDelimited(1, name) + lengthDelimited(4, "\x0a\x05\x0a") + lengthDelimited(4, "\x01i")
	samples["quota for another"] = lengthDelimited(1, name) + lengthDelimited(4, asked("j", varintField(1, 7)))
	samples["quota for nobody"] = lengthDelimited(4, asked("", varintField(1, 7)))
	samples["quota without a value"] = lengthDelimited(1, name) + lengthDelimited(4, lengthDelimited(1, lengthDelimited(1, "i")))
	samples["quota's value twice"] = lengthDelimited(1, name) + lengthDelimited(4, lengthDelimited(1, lengthDelimited(1, "i"), lengthDelimited(2, varintField(1, 7)), lengthDelimited(2, varintField(2, 1))))
	samples["quota's amount twice"] = lengthDelimited(1, name) + lengthDelimited(4, asked("i", varintField(1, 7), varintField(1, 8)))
	samples["quota's amount negative"] = lengthDelimited(1, name) + lengthDelimited(4, asked("i", varintField(1, math.MaxUint64)))
	samples["quota's amount a text"] = lengthDelimited(1, name) + lengthDelimited(4, asked("i", lengthDelimited(1, "7")))
	samples["quota's entry backwards"] = lengthDelimited(1, name) + lengthDelimited(4, lengthDelimited(1, lengthDelimited(2, varintField(1, 7)), lengthDelimited(1, "i")))
	samples["quota's key a number"] = lengthDelimited(1, name) + lengthDelimited(4, lengthDelimited(1, varintField(1, 1)))
	samples["quota's entry a number"] = lengthDelimited(1, name) + lengthDelimited(4, varintField(1, 1))
	samples["quota a number"] = varintField(4, 1)
	samples["quota empty"] = lengthDelimited(4)
	samples["quota, overlong"] = overlong(1, name) + overlong(4, overlong(1, overlong(1, "i")+overlong(2, varintField(1, 7))))
	samples["quota with the future"] = lengthDelimited(1, name, varintField(98, 1)) + lengthDelimited(4, asked("i", varintField(1, 7), varintField(9, 1)), varintField(9, 9)) + varintField(99, 1)
	samples["dimension twice"] = lengthDelimited(1, name, lengthDelimited(1, lengthDelimited(1, "a"), lengthDelimited(2, lengthDelimited(1, "x"))), lengthDelimited(1, lengthDelimited(1, "a"), lengthDelimited(2, varintField(2, 5))))
	samples["dimension without a value"] = lengthDelimited(1, name, lengthDelimited(1, lengthDelimited(1, "a")))
	return samples
}

func TestDecodeQuotaAgreesWithGeneratedCode(t *testing.T) {
	for name, sample := range quotaSamples(t) {
		t.Run(name, func(t *testing.T) {
			for end := range min(len(sample), 600) {
				compareQuota(t, sample[:end])
			}
			compareQuota(t, sample)
		})
	}
}

func FuzzDecodeQuota(f *testing.F) {
	for _, sample := range quotaSamples(f) {
		f.Add([]byte(sample))
	}
	f.Fuzz(func(t *testing.T, data []byte) { compareQuota(t, string(data)) })
}

// compareQuota decodes with our decoder and with the generated code, which differ as compareWithGenerated says.
func compareQuota(t *testing.T, data string) {
	t.Helper()
	theirs := &quota.HandleQuotaRequest{}
	theirErr := theirs.Unmarshal([]byte(data))
	ours := quotaCall{}
	err := decodeQuota(data, &ours)
	odd := oddities{}
	walk([]byte(data), func(number int32, wire byte, part []byte) {
		if (number == 1 || number == 4) && wire == wireBytes {
			walk(part, func(field int32, wire byte, entry []byte) {
				if field == 1 && wire == wireBytes {
					o := oddities{}
					o.properties(entry)
					odd.entry = odd.entry || o.entry
					odd.stranger = odd.stranger || o.stranger && number == 1
				}
			})
		}
	})
	if (err == nil) != (theirErr == nil) {
		require.True(t, err == nil && odd.stranger || theirErr == nil && odd.entry, "ours: %v, generated: %v", err, theirErr)
		return
	}
	if err != nil {
		return
	}
	require.False(t, odd.entry, "a malformed map entry was accepted")
	require.Equal(t, theirs.AdapterConfig != nil, ours.hasConfig)
	require.Equal(t, theirs.AdapterConfig.GetTypeUrl(), ours.typeURL)
	require.Equal(t, string(theirs.AdapterConfig.GetValue()), ours.params)
	require.Equal(t, theirs.DedupId, ours.quota.DedupID)
	instance := theirs.Instance
	if instance == nil {
		instance = &quota.InstanceMsg{}
	}
	require.Equal(t, instance.Name, ours.request.Instance)
	compareProperties(t, instance.Dimensions, ours.quota.Dimensions, odd.stranger)
	var asked v1beta1.QuotaRequest_QuotaParams
	asks := false
	if theirs.QuotaRequest != nil {
		asked, asks = theirs.QuotaRequest.Quotas[instance.Name]
	}
	require.Equal(t, asks, ours.asks)
	require.Equal(t, asked.Amount, ours.quota.Amount)
	require.Equal(t, asked.BestEffort, ours.quota.BestEffort)
}

// quotaDoor is a door that counts in memory.
func quotaDoor(tb testing.TB, observer Observer, stores map[string]policyquota.Store) *Door {
	tb.Helper()
	engines := testEngines(testCompiler())
	engines.Quotas = &policy.Compiler{
		Kinds:   []policy.Kind{policyquota.Kind{Memory: policyquota.NewMemory(100), Stores: stores}},
		Timeout: 10 * time.Second, Gate: policy.NewGate(2, 0), Scope: policyquota.Scope,
	}
	return NewDoor(engines, testLimits(), observer)
}

func tenAMinute() *configpb.Quota {
	return &configpb.Quota{Instance: "requests", Amount: 10, Window: durationpb.New(time.Minute)}
}

// decision answers a quota call and returns the reply beside the decision behind it.
func decisionOf(t *testing.T, door *Door, seen *ledger, call []byte) (v1beta1.QuotaResult_Result, policy.Decision) {
	t.Helper()
	result := door.quota(t.Context(), string(call))
	require.Len(t, result.Quotas, 1)
	return result.Quotas[mixertest.QuotaInstance], seen.decisions[len(seen.decisions)-1]
}

func TestDoorGrantsQuotas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := &ledger{}
		door := quotaDoor(t, seen, nil)
		params := mixertest.Params(&configpb.Params{Name: "h", Quotas: []*configpb.Quota{tenAMinute()}})
		user := map[string]string{"user": "alice", "path": "/x"}
		take := func(id string, dimensions map[string]string, amount int64, bestEffort bool) (v1beta1.QuotaResult_Result, policy.Decision) {
			return decisionOf(t, door, seen, mixertest.Quota(params, id, dimensions, amount, bestEffort))
		}
		reply, decision := take("1", user, 4, false)
		assert.Equal(t, v1beta1.QuotaResult_Result{GrantedAmount: 4, ValidDuration: 5 * time.Second}, reply, "valid as long as an allow is")
		assert.Equal(t, "allow", decision.Outcome())
		assert.Equal(t, "quota/requests", decision.Check)
		assert.Equal(t, policyquota.ReasonGranted, decision.Reason)
		assert.NotEmpty(t, decision.Revision)
		reply, _ = take("1", user, 4, false)
		assert.EqualValues(t, 4, reply.GrantedAmount, "a repeat")
		time.Sleep(58 * time.Second)
		reply, decision = take("2", user, 8, true)
		assert.Equal(t, v1beta1.QuotaResult_Result{GrantedAmount: 6, ValidDuration: 2 * time.Second}, reply, "valid as long as the window goes on")
		assert.Equal(t, policyquota.ReasonReduced, decision.Reason)
		reply, decision = take("3", user, 1, true)
		assert.EqualValues(t, 0, reply.GrantedAmount)
		assert.Equal(t, deniedFor, reply.ValidDuration, "Mixer takes 0 of 0s for no answer")
		assert.EqualValues(t, config.ResourceExhausted, reply.Status.Code)
		assert.Equal(t, "deny", decision.Outcome())
		reply, _ = take("4", map[string]string{"user": "bob"}, 10, false)
		assert.EqualValues(t, 10, reply.GrantedAmount, "another's count")
		time.Sleep(2 * time.Second)
		reply, _ = take("5", user, 10, false)
		assert.EqualValues(t, 10, reply.GrantedAmount, "a new window")
	})
}

// Params in another order are another configuration to the cache, and the same to the counts.
func TestCountsBelongToTheFingerprint(t *testing.T) {
	seen := &ledger{}
	door := quotaDoor(t, seen, nil)
	a := mixertest.Params(&configpb.Params{Name: "h"})
	b := mixertest.Params(&configpb.Params{Quotas: []*configpb.Quota{tenAMinute()}})
	for i, params := range [][]byte{append(append([]byte{}, a...), b...), append(append([]byte{}, b...), a...)} {
		reply, _ := decisionOf(t, door, seen, mixertest.Quota(params, "", nil, 10, false))
		assert.Equal(t, []int64{10, 0}[i], reply.GrantedAmount)
	}
	assert.Equal(t, 2, door.quotas.lru.Len())
}

func TestLifetimesOfGrants(t *testing.T) {
	second := durationpb.New(time.Second)
	for name, c := range map[string]struct {
		lifetimes        *configpb.Lifetimes
		granted, refused time.Duration
	}{
		"by default":   {nil, 5 * time.Second, deniedFor},
		"shorter":      {&configpb.Lifetimes{Allow: &configpb.Lifetime{Duration: second}}, time.Second, deniedFor},
		"single-use":   {&configpb.Lifetimes{Allow: &configpb.Lifetime{SingleUse: true}}, -time.Second, deniedFor},
		"the window's": {&configpb.Lifetimes{Allow: &configpb.Lifetime{Duration: durationpb.New(time.Hour)}, Deny: &configpb.Lifetime{Duration: durationpb.New(time.Hour)}}, time.Minute, time.Minute},
		"of denials":   {&configpb.Lifetimes{Deny: &configpb.Lifetime{Duration: second}}, 5 * time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seen := &ledger{}
				door := quotaDoor(t, seen, nil)
				params := mixertest.Params(&configpb.Params{Quotas: []*configpb.Quota{tenAMinute()}, Lifetimes: c.lifetimes})
				reply, _ := decisionOf(t, door, seen, mixertest.Quota(params, "1", nil, 10, false))
				assert.Equal(t, c.granted, reply.ValidDuration)
				reply, _ = decisionOf(t, door, seen, mixertest.Quota(params, "2", nil, 10, false))
				assert.Equal(t, c.refused, reply.ValidDuration)
				assert.Zero(t, reply.GrantedAmount)
			})
		})
	}
	// A bucket has no window that ends.
	seen := &ledger{}
	bucket := tenAMinute()
	bucket.Algorithm, bucket.Window = configpb.Quota_TOKEN_BUCKET, second
	reply, _ := decisionOf(t, quotaDoor(t, seen, nil), seen, mixertest.Quota(mixertest.Params(&configpb.Params{Quotas: []*configpb.Quota{bucket}}), "", nil, 3, false))
	assert.Equal(t, v1beta1.QuotaResult_Result{GrantedAmount: 3, ValidDuration: 5 * time.Second}, reply)
}

// storeFunc is a store that does what a test wants.
type storeFunc func(ctx context.Context) (policyquota.Taken, error)

func (f storeFunc) Take(ctx context.Context, _ policyquota.Take) (policyquota.Taken, error) {
	return f(ctx)
}

func TestQuotaFailures(t *testing.T) {
	stores := func(busy <-chan struct{}) map[string]policyquota.Store {
		return map[string]policyquota.Store{
			"away": storeFunc(func(context.Context) (policyquota.Taken, error) {
				return policyquota.Taken{Amount: 10}, context.DeadlineExceeded // its own, not the call's
			}),
			"panics": storeFunc(func(context.Context) (policyquota.Taken, error) { panic("planted") }),
			"hangs": storeFunc(func(ctx context.Context) (policyquota.Taken, error) {
				<-ctx.Done()
				return policyquota.Taken{}, ctx.Err()
			}),
			"ignores time": storeFunc(func(context.Context) (policyquota.Taken, error) {
				<-busy
				return policyquota.Taken{Amount: 10}, nil
			}),
		}
	}
	in := func(store string) *configpb.Params {
		q := tenAMinute()
		q.Store = store
		return &configpb.Params{Quotas: []*configpb.Quota{q}}
	}
	keyed := &configpb.Params{AuthKey: proto.String("abc")}
	full := tenAMinute()
	full.MaxKeys = 1
	for _, c := range []struct {
		name   string
		params *configpb.Params
		class  config.FailureClass
		// before is done before the call.
		before func(door *Door)
	}{
		{"a handler of checks", keyed, config.ConfigurationFailure, nil},
		{"a handler of nothing", &configpb.Params{}, config.ConfigurationFailure, nil},
		{"another instance's", &configpb.Params{Quotas: []*configpb.Quota{{Instance: "bytes", Amount: 1, Window: durationpb.New(time.Second)}}}, config.ConfigurationFailure, nil},
		{"a store that there is not", in("other"), config.ConfigurationFailure, nil},
		{"params with problems", &configpb.Params{Quotas: []*configpb.Quota{{Amount: 1}}}, config.ConfigurationFailure, nil},
		{"a store that is away", in("away"), config.DependencyDown, nil},
		{"a store that hangs", in("hangs"), config.Timeout, nil},
		{"a store that panics", in("panics"), config.Panic, nil},
		{"a store that ignores time", in("ignores time"), config.Timeout, nil},
		{"a crowd", in("ignores time"), config.Overload, func(door *Door) {
			var group sync.WaitGroup
			for range 2 { // as many as the gate lets in
				group.Go(func() {
					door.quota(context.Background(), string(mixertest.Quota(mixertest.Params(in("ignores time")), "", nil, 1, false)))
				})
			}
			group.Wait()
		}},
		{"no room", &configpb.Params{Quotas: []*configpb.Quota{full}}, config.Overload, func(door *Door) {
			for _, mode := range []*configpb.Failure{nil, openForAll} {
				params := mixertest.Params(&configpb.Params{Quotas: []*configpb.Quota{full}, Failure: mode})
				door.quota(context.Background(), string(mixertest.Quota(params, "", map[string]string{"a": "b"}, 1, false)))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// In a time of its own, so that nothing but what is to be late is late.
			synctest.Test(t, func(t *testing.T) {
				busy := make(chan struct{})
				defer close(busy)
				for _, mode := range []*configpb.Failure{nil, openForAll} {
					seen := &ledger{}
					door := quotaDoor(t, seen, stores(busy))
					if c.before != nil {
						c.before(door)
					}
					params, _ := proto.Clone(c.params).(*configpb.Params)
					params.Failure = mode
					reply, decision := decisionOf(t, door, seen, mixertest.Quota(mixertest.Params(params), "", nil, 7, false))
					require.NotNil(t, decision.Failure)
					assert.Equal(t, c.class, decision.Failure.Class, decision.Failure.Detail)
					assert.NotContains(t, decision.Failure.Detail, "planted")
					if mode == nil {
						assert.Zero(t, reply.GrantedAmount)
						assert.Equal(t, deniedFor, reply.ValidDuration)
						assert.EqualValues(t, config.Unavailable, reply.Status.Code)
						continue
					}
					assert.Equal(t, v1beta1.QuotaResult_Result{GrantedAmount: 7, ValidDuration: config.SingleUse.Duration}, reply, "as asked, for this request alone")
					assert.EqualValues(t, 7, decision.Granted)
					assert.EqualValues(t, 7, decision.Asked)
				}
			})
		})
	}
	t.Run("checks on a handler of quotas", func(t *testing.T) {
		_, decision := answer(t, nil, mixertest.Call(&configpb.Params{Quotas: []*configpb.Quota{tenAMinute()}}, "abc"))
		require.NotNil(t, decision.Failure)
		assert.Equal(t, config.ConfigurationFailure, decision.Failure.Class)
		assert.Contains(t, decision.Failure.Detail, "no check is configured")
	})
}

func TestDoorAnswersBadQuotaCalls(t *testing.T) {
	good := mixertest.Params(&configpb.Params{Quotas: []*configpb.Quota{tenAMinute()}, Failure: openForAll})
	for name, c := range map[string]struct {
		call  string
		class config.FailureClass
	}{
		"nothing at all": {"", config.ConfigurationFailure},
		"malformed":      {"\x0a\x7f", config.MalformedRequest},
		"asks nothing":   {marshal(t, &quota.HandleQuotaRequest{Instance: &quota.InstanceMsg{Name: mixertest.QuotaInstance}, AdapterConfig: &types.Any{TypeUrl: config.TypeURL, Value: good}}), config.MalformedRequest},
		"another's params": {marshal(t, &quota.HandleQuotaRequest{
			Instance: &quota.InstanceMsg{Name: mixertest.QuotaInstance}, AdapterConfig: &types.Any{TypeUrl: "x", Value: good},
			QuotaRequest: fullQuotaRequest().QuotaRequest,
		}), config.ConfigurationFailure},
	} {
		seen := &ledger{}
		result := quotaDoor(t, seen, nil).quota(t.Context(), c.call)
		require.Len(t, seen.decisions, 1, name)
		require.NotNil(t, seen.decisions[0].Failure, name)
		assert.Equal(t, c.class, seen.decisions[0].Failure.Class, name)
		for _, reply := range result.Quotas {
			assert.Zero(t, reply.GrantedAmount, name)
		}
	}
	// An amount below zero gives nothing, not even back.
	seen := &ledger{}
	door := quotaDoor(t, seen, nil)
	for _, amount := range []int64{0, -1, math.MinInt64} {
		reply, decision := decisionOf(t, door, seen, mixertest.Quota(good, "", nil, amount, true))
		assert.Zero(t, reply.GrantedAmount)
		assert.Equal(t, policyquota.ReasonAmount, decision.Reason)
	}
	reply, _ := decisionOf(t, door, seen, mixertest.Quota(good, "", nil, math.MaxInt64, true))
	assert.EqualValues(t, 10, reply.GrantedAmount)
	// Nor does one that is let through.
	broken := mixertest.Params(&configpb.Params{Failure: openForAll})
	reply, decision := decisionOf(t, door, seen, mixertest.Quota(broken, "", nil, -5, true))
	assert.Equal(t, "failed_open", decision.Outcome())
	assert.Zero(t, reply.GrantedAmount)
}

func TestPanickingObserversCostNoQuotaCallItsAnswer(t *testing.T) {
	door := quotaDoor(t, panicking{}, nil)
	params := mixertest.Params(&configpb.Params{Quotas: []*configpb.Quota{tenAMinute()}, Failure: openForAll})
	result := door.quota(t.Context(), string(mixertest.Quota(params, "", nil, 1, false)))
	assert.Zero(t, result.Quotas[mixertest.QuotaInstance].GrantedAmount)
	assert.Contains(t, result.Quotas, mixertest.QuotaInstance)
}
