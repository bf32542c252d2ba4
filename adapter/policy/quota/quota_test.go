package quota

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// fixed is a store that answers what it is told to, and keeps what it was asked.
type fixed struct {
	taken Taken
	err   error
	asked []Take
}

func (f *fixed) Take(_ context.Context, request Take) (Taken, error) {
	f.asked = append(f.asked, request)
	return f.taken, f.err
}

func text(s string) attribute.Value { return attribute.OfText(attribute.String, s) }

func dimensions(pairs ...string) (m attribute.Map) {
	for i := 0; i+1 < len(pairs); i += 2 {
		m = append(m, attribute.Entry{Name: pairs[i], Value: text(pairs[i+1])})
	}
	return m
}

const instance = "requests.instance.shop"

func compile(t *testing.T, store Store, quotas ...config.Quota) policy.Check {
	t.Helper()
	checks, problems := Kind{Memory: store}.Compile(&config.Handler{Fingerprint: "f", Quotas: quotas})
	require.Empty(t, problems)
	require.Len(t, checks, 1)
	return checks[0]
}

func ask(t *testing.T, check policy.Check, call policy.Quota) policy.Verdict {
	t.Helper()
	return check.Evaluate(t.Context(), &policy.Request{Instance: instance, Quota: &call})
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	window := config.QuotaLimit{Amount: 10, Window: time.Minute}
	bucket := config.QuotaLimit{Amount: 10, Window: time.Minute, Refill: 10}
	away := errors.New("connection refused")
	for name, c := range map[string]struct {
		limit config.QuotaLimit
		taken Taken
		err   error
		asked int64
		want  policy.Verdict
	}{
		"granted":                 {window, Taken{3, time.Second}, nil, 3, policy.Verdict{Result: policy.Passed, Reason: ReasonGranted, Granted: 3, Lifetime: config.Lifetime{Duration: time.Second, Uses: math.MaxInt32}}},
		"granted of a bucket":     {bucket, Taken{3, 0}, nil, 3, policy.Verdict{Result: policy.Passed, Reason: ReasonGranted, Granted: 3}},
		"less":                    {bucket, Taken{2, 0}, nil, 3, policy.Verdict{Result: policy.Passed, Reason: ReasonReduced, Granted: 2}},
		"nothing":                 {window, Taken{0, time.Second}, nil, 3, policy.Verdict{Result: policy.Denied, Reason: ReasonExhausted, Denial: &exhausted, Lifetime: config.Lifetime{Duration: time.Second, Uses: math.MaxInt32}}},
		"nothing asked":           {window, Taken{9, time.Second}, nil, 0, policy.Verdict{Result: policy.Denied, Reason: ReasonAmount, Denial: &exhausted}},
		"less than nothing asked": {window, Taken{9, time.Second}, nil, math.MinInt64, policy.Verdict{Result: policy.Denied, Reason: ReasonAmount, Denial: &exhausted}},
		"nothing to have":         {config.QuotaLimit{Window: time.Minute}, Taken{9, time.Second}, nil, 1, policy.Verdict{Result: policy.Denied, Reason: ReasonExhausted, Denial: &exhausted}},
		"away":                    {window, Taken{9, 0}, away, 1, policy.Failing(policy.Fail(config.DependencyDown, "quota/q: store : connection refused"))},
		"a failure":               {window, Taken{9, 0}, policy.Fail(config.Overload, "full"), 1, policy.Failing(policy.Fail(config.Overload, "full"))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check := compile(t, &fixed{taken: c.taken, err: c.err}, config.Quota{Name: "q", Limit: c.limit})
			c.want.Name = "quota/q"
			assert.Equal(t, c.want, ask(t, check, policy.Quota{Amount: c.asked}))
		})
	}
	late, cancel := context.WithCancel(t.Context())
	cancel()
	verdict := compile(t, &fixed{err: away}, config.Quota{Name: "q", Limit: window}).
		Evaluate(late, &policy.Request{Instance: instance, Quota: &policy.Quota{Amount: 1}})
	assert.Equal(t, config.Timeout, verdict.Failure.Class, "the call's own time is over, whatever the store says")
}

func TestTheFirstQuotaForTheInstanceHolds(t *testing.T) {
	t.Parallel()
	limit := config.QuotaLimit{Amount: 10, Window: time.Minute}
	check := compile(t, &fixed{taken: Taken{Amount: 1}},
		config.Quota{Name: "full", Instance: "requests.instance.shop", Limit: limit},
		config.Quota{Name: "short", Instance: "requests", Limit: limit},
		config.Quota{Name: "other", Instance: "bytes", Limit: limit})
	for instance, want := range map[string]string{
		"requests.instance.shop":  "quota/full",
		"requests.instance.other": "quota/short",
		"bytes.instance.shop":     "quota/other",
		"Requests.instance.shop":  "",
		"requests":                "quota/short",
		"shop":                    "",
		"":                        "",
	} {
		verdict := check.Evaluate(t.Context(), &policy.Request{Instance: instance, Quota: &policy.Quota{Amount: 1}})
		assert.Equal(t, want, verdict.Name, instance)
		if want == "" {
			require.NotNil(t, verdict.Failure, "nothing is granted for want of a quota")
			assert.Equal(t, config.ConfigurationFailure, verdict.Failure.Class)
		}
	}
	everything := compile(t, &fixed{taken: Taken{Amount: 1}}, config.Quota{Name: "all", Limit: limit})
	assert.Equal(t, "quota/all", ask(t, everything, policy.Quota{Amount: 1}).Name)
	assert.Equal(t, config.ConfigurationFailure, everything.Evaluate(t.Context(), &policy.Request{Instance: instance}).Failure.Class, "a call that is none of a quota")
}

func TestCompile(t *testing.T) {
	t.Parallel()
	kind := Kind{Memory: &fixed{}, Stores: map[string]Store{"main": &fixed{}}}
	checks, problems := kind.Compile(&config.Handler{})
	assert.Empty(t, checks)
	assert.Empty(t, problems)
	checks, problems = kind.Compile(&config.Handler{Quotas: []config.Quota{{Store: "mian"}, {}, {Store: "main"}, {Store: "x"}}})
	assert.Empty(t, checks)
	assert.Equal(t, `quotas[0].store: "mian" is not defined; add it to redis in the adapter's settings; quotas[3].store: "x" is not defined; add it to redis in the adapter's settings`, problems.Error())
	checks, problems = kind.Compile(&config.Handler{Quotas: []config.Quota{{}}})
	assert.Empty(t, problems)
	assert.Equal(t, policy.Instant, checks[0].Cost())
	assert.Equal(t, "quota", checks[0].Name())
	checks, problems = kind.Compile(&config.Handler{Quotas: []config.Quota{{}, {Store: "main"}}})
	assert.Empty(t, problems)
	assert.Equal(t, policy.Compute, checks[0].Cost(), "what asks others gets a deadline")
}

func TestOverrides(t *testing.T) {
	t.Parallel()
	store := &fixed{taken: Taken{Amount: 1}}
	limit := func(amount int64) config.QuotaLimit { return config.QuotaLimit{Amount: amount, Window: time.Minute} }
	check := compile(t, store, config.Quota{Limit: limit(1), Overrides: []config.QuotaOverride{
		{Dimensions: map[string]string{"user": "alice", "path": "/a"}, Limit: limit(2)},
		{Dimensions: map[string]string{"user": "alice"}, Limit: limit(3)},
		{Dimensions: map[string]string{"n": "-5"}, Limit: limit(4)},
		{Dimensions: map[string]string{"n": "2.5"}, Limit: limit(5)},
		{Dimensions: map[string]string{"n": "true"}, Limit: limit(6)},
		{Dimensions: map[string]string{"n": "10.0.0.1"}, Limit: limit(7)},
		{Dimensions: map[string]string{"n": "1m30s"}, Limit: limit(8)},
		{Dimensions: map[string]string{"n": "2020-09-13T12:26:40Z"}, Limit: limit(9)},
		{Dimensions: map[string]string{"n": ""}, Limit: limit(10)},
	}})
	one := func(value attribute.Value) attribute.Map { return attribute.Map{{Name: "n", Value: value}} }
	mapped := netip.MustParseAddr("::ffff:10.0.0.1").As16()
	for _, c := range []struct {
		dimensions attribute.Map
		want       int64
	}{
		{nil, 1},
		{dimensions("user", "alice", "path", "/a"), 2},
		{dimensions("path", "/a", "user", "alice"), 2},
		{dimensions("user", "alice", "path", "/b"), 3},
		{dimensions("user", "alice"), 3},
		{dimensions("user", "Alice"), 1},
		{dimensions("user", "bob", "user", "alice"), 3}, // the last counts
		{dimensions("user", "alice", "user", "bob"), 1},
		{one(attribute.OfInt64(-5)), 4},
		{one(text("-5")), 4},
		{one(attribute.OfDouble(2.5)), 5},
		{one(attribute.OfBool(true)), 6},
		{one(attribute.OfIP("\x0a\x00\x00\x01")), 7},
		{one(attribute.OfIP(string(mapped[:]))), 7},
		{one(attribute.OfDuration(90, 0)), 8},
		{one(attribute.OfTimestamp(1_600_000_000, 0)), 9},
		{one(text("")), 10},
		{one(attribute.Value{}), 1}, // what cannot be read is no value
		{one(attribute.OfText(attribute.URI, "/x")), 1},
	} {
		ask(t, check, policy.Quota{Amount: 1, Dimensions: c.dimensions})
		assert.Equal(t, c.want, store.asked[len(store.asked)-1].Limit.Amount, "%v", c.dimensions)
	}
}

// Every combination has a count of its own, and none has two.
func TestKeys(t *testing.T) {
	t.Parallel()
	type source struct {
		quota, instance string
		dimensions      attribute.Map
	}
	one := func(value attribute.Value) source { return source{"q", "i", attribute.Map{{Name: "n", Value: value}}} }
	different := []source{
		{"q", "i", nil},
		{"q2", "i", nil},
		{"q", "i2", nil},
		{"", "qi", nil},
		{"q", "i", dimensions("a", "")},
		{"q", "i", dimensions("a", "b")},
		{"q", "i", dimensions("ab", "")},
		{"q", "i", dimensions("a", "b", "c", "d")},
		{"q", "i", dimensions("a", "bc", "", "d")},
		{"q", "i", dimensions("a", "b\x01c\x01\x01d")},
		{"q", "i", dimensions("a", "b\x00c\x01\x00d")},
		{"q", "i", dimensions("a", "b", "c", "")},
		one(attribute.OfInt64(1)), one(text("1")), one(attribute.OfDouble(1)), one(attribute.OfDuration(1, 0)), one(attribute.OfTimestamp(1, 0)),
		one(attribute.OfBool(true)), one(attribute.OfIP("\x01\x00\x00\x00")), one(attribute.OfText(attribute.URI, "1")), one(attribute.Value{}),
	}
	for _, names := range [][]string{nil, {"", "a", "ab", "c", "n"}} {
		seen := map[Key]source{}
		for _, s := range different {
			key := countKey(s.quota, s.instance, s.dimensions, names)
			if before, ok := seen[key]; ok {
				t.Errorf("%v: %v and %v are one", names, before, s)
			}
			seen[key] = s
		}
		want := countKey("q", "i", dimensions("a", "1", "n", "2"), names)
		assert.Equal(t, want, countKey("q", "i", dimensions("n", "2", "a", "1"), names), "Mixer draws the order by lot")
		assert.Equal(t, want, countKey("q", "i", dimensions("n", "1", "a", "1", "n", "2"), names), "of several the last counts")
	}
	mapped := netip.MustParseAddr("::ffff:1.0.0.0").As16()
	assert.Equal(t, countKey("q", "i", one(attribute.OfIP("\x01\x00\x00\x00")).dimensions, nil), countKey("q", "i", one(attribute.OfIP(string(mapped[:]))).dimensions, nil))

	// Only what is named counts, and what is absent is not what is empty.
	named := []string{"a"}
	assert.Equal(t, countKey("q", "i", dimensions("a", "1", "b", "2"), named), countKey("q", "i", dimensions("b", "3", "a", "1"), named))
	assert.NotEqual(t, countKey("q", "i", nil, named), countKey("q", "i", dimensions("a", ""), named))
	many := attribute.Map{}
	for i := range 100 {
		many = append(many, dimensions(strconv.Itoa(i), strconv.Itoa(i)+" of a text that is not short")...)
	}
	assert.NotEqual(t, countKey("q", "i", many, nil), countKey("q", "i", many[:99], nil))
	assert.Equal(t, "0", many[0].Name, "the request is not changed")
}

// Mixer appends the quota's name to the id of the call: where that is all, the caller has sent none.
func TestOnlyIDsTellCallsApart(t *testing.T) {
	t.Parallel()
	store := &fixed{taken: Taken{Amount: 1}}
	check := compile(t, store, config.Quota{Limit: config.QuotaLimit{Amount: 10, Window: time.Minute}})
	repeat := func(call policy.Quota) Key {
		ask(t, check, call)
		return store.asked[len(store.asked)-1].Repeat
	}
	for _, none := range []string{"", "requests", "REQUESTS"} {
		assert.Zero(t, repeat(policy.Quota{Amount: 1, DedupID: none}), none)
	}
	first := repeat(policy.Quota{Amount: 1, DedupID: "1requests", Dimensions: dimensions("a", "b")})
	assert.NotZero(t, first)
	assert.Equal(t, first, repeat(policy.Quota{Amount: 1, DedupID: "1requests", Dimensions: dimensions("a", "b")}))
	for _, other := range []policy.Quota{
		{Amount: 1, DedupID: "2requests", Dimensions: dimensions("a", "b")},
		{Amount: 1, DedupID: "1requests", Dimensions: dimensions("a", "c")},
		{Amount: 2, DedupID: "1requests", Dimensions: dimensions("a", "b")},
		{Amount: 1, DedupID: "1requests", Dimensions: dimensions("a", "b"), BestEffort: true},
	} {
		assert.NotEqual(t, first, repeat(other), "%v", other)
	}
	// Nor can an id be made to look like an amount: the lengths of these two are digits.
	id := strings.Repeat("x", '1')
	assert.NotEqual(t, repeat(policy.Quota{Amount: 1, DedupID: "1" + id}), repeat(policy.Quota{Amount: 12, DedupID: id}))
}
