package mixer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"istio.io/api/mixer/adapter/model/v1beta1"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/logentry"
)

// acceptor keeps calls, or refuses them.
type acceptor struct {
	mu     sync.Mutex
	calls  []*report.Call
	refuse error
	panics bool
}

func (a *acceptor) Accept(_ context.Context, call *report.Call) error {
	if a.panics {
		panic("planted")
	}
	if a.refuse != nil {
		return a.refuse
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, call)
	return nil
}

// reportDoor is a door to an acceptor, with the sinks main, audit and spare, of which main is the default.
func reportDoor(tb testing.TB, a *acceptor, observer Observer) *Door {
	tb.Helper()
	engines := testEngines(testCompiler())
	engines.Acceptor = a
	engines.Planner = &report.Planner{Sinks: []string{"main", "audit", "spare"}, Default: []string{"main"}}
	return NewDoor(engines, testLimits(), observer)
}

// logEntries is a call with an instance for each set of variables; of a name alone where it is nil.
func logEntries(params *configpb.Params, variables ...map[string]string) string {
	var instances []*logentry.InstanceMsg
	for _, v := range variables {
		instance := mixertest.LogEntry(v)
		if v == nil {
			instance = &logentry.InstanceMsg{Name: instance.Name}
		}
		instances = append(instances, instance)
	}
	return string(mixertest.LogEntries(mixertest.Params(params), instances...))
}

func TestReportsAreAccepted(t *testing.T) {
	params := &configpb.Params{Name: "shop", Report: &configpb.Report{Sinks: []string{"audit", "spare"}, Drop: []string{"password"}, Mask: []string{"user"}}}
	for _, template := range reportTemplates {
		t.Run(template.service, func(t *testing.T) {
			a, seen := &acceptor{}, &ledger{}
			door := reportDoor(t, a, seen)
			// Instances of a name alone are the same in every template.
			call := logEntries(params, nil, nil)
			if template.kind == record.KindLogEntry {
				call = logEntries(params, map[string]string{"user": "alice", "password": "hush", "url": "/"}, map[string]string{"url": "/2"})
			}
			result, err := door.report(t.Context(), template, call)
			require.NoError(t, err)
			assert.NotNil(t, result)
			require.Len(t, a.calls, 1)
			got := a.calls[0]
			assert.Equal(t, template.kind, got.Kind)
			assert.Equal(t, "shop", got.Handler)
			assert.Equal(t, []string{"audit", "spare"}, got.Sinks)
			assert.Len(t, got.Instances, 2)
			if template.kind == record.KindLogEntry {
				entry, err := record.DecodeLogEntry(got.Instances[0])
				require.NoError(t, err)
				names := map[string]string{}
				for _, v := range entry.Variables {
					names[v.Name], _ = v.Value.Text()
				}
				assert.Equal(t, map[string]string{"user": record.Masked, "url": "/"}, names)
				assert.NotContains(t, strings.Join(got.Instances, ""), "hush")
				assert.NotContains(t, strings.Join(got.Instances, ""), "alice")
			}
			assert.Equal(t, []report.Reported{{Handler: "shop", Kind: template.kind, Instances: 2, Accepted: 2}}, seen.reported)
			assert.Len(t, seen.plans, 1)
		})
	}
}

// What cannot be read of a configuration must not cost a record, and must not show a value that was to be hidden.
func TestReportsWithoutAValidConfigurationGoToTheDefaultSinks(t *testing.T) {
	const planted = "planted-value"
	good := mixertest.Params(&configpb.Params{Report: &configpb.Report{Sinks: []string{"audit"}}})
	instance := mixertest.LogEntry(map[string]string{"user": planted})
	for name, c := range map[string]struct {
		call   []byte
		hidden bool
	}{
		"undecodable":           {mixertest.LogEntries([]byte("\xff"), instance), true},
		"unknown report field":  {mixertest.LogEntries([]byte("\x6a\x03\xf2\x2e\x00"), instance), true},
		"too large":             {mixertest.LogEntries(make([]byte, MaxParamsBytes+1), instance), true},
		"no config":             {withoutConfig(t, mixertest.LogEntries(good, instance)), true},
		"another type":          {[]byte(strings.Replace(string(mixertest.LogEntries(good, instance)), "v1.Params", "v2.Params", 1)), true},
		"a problem elsewhere":   {mixertest.LogEntries(mixertest.Params(&configpb.Params{AuthKey: proto.String("")}), instance), false},
		"a sink there is not":   {mixertest.LogEntries(mixertest.Params(&configpb.Params{Report: &configpb.Report{Sinks: []string{"nowhere"}}}), instance), false},
		"bad mask":              {mixertest.LogEntries(mixertest.Params(&configpb.Params{Report: &configpb.Report{Mask: []string{""}}}), instance), true},
		"mask beside a problem": {mixertest.LogEntries(mixertest.Params(&configpb.Params{Name: "?", Report: &configpb.Report{Mask: []string{"us*"}}}), instance), true},
	} {
		t.Run(name, func(t *testing.T) {
			a, seen := &acceptor{}, &ledger{}
			door := reportDoor(t, a, seen)
			_, err := door.report(t.Context(), reportTemplates[0], string(c.call))
			require.NoError(t, err)
			require.Len(t, a.calls, 1)
			assert.Equal(t, []string{"main"}, a.calls[0].Sinks)
			require.Len(t, a.calls[0].Instances, 1)
			assert.Equal(t, !c.hidden, strings.Contains(a.calls[0].Instances[0], planted))
			require.Len(t, seen.plans, 1)
			assert.NotEmpty(t, seen.plans[0].Problems())
		})
	}
}

func withoutConfig(t *testing.T, call []byte) []byte {
	t.Helper()
	var left []byte
	for len(call) > 0 {
		number, _, n := protowire.ConsumeField(call)
		require.Positive(t, n)
		if number != 2 {
			left = append(left, call[:n]...)
		}
		call = call[n:]
	}
	return left
}

// One mistaken expression must not cost the records beside it.
func TestMalformedInstancesAreLeftOut(t *testing.T) {
	a, seen := &acceptor{}, &ledger{}
	door := reportDoor(t, a, seen)
	params := mixertest.Params(&configpb.Params{Name: "shop"})
	call := string(mixertest.LogEntries(params, mixertest.LogEntry(nil))) + "\x0a\x02\x0a\x7f" + string(mixertest.LogEntries(params, mixertest.LogEntry(nil)))
	_, err := door.report(t.Context(), reportTemplates[0], call)
	require.NoError(t, err)
	require.Len(t, a.calls[0].Instances, 2)
	assert.Equal(t, []report.Reported{{Handler: "shop", Kind: record.KindLogEntry, Instances: 3, Accepted: 2, Left: report.Left{Malformed: 1}}}, seen.reported)
}

func TestReportCallsAreRefused(t *testing.T) {
	good := logEntries(&configpb.Params{Name: "shop"}, nil)
	for name, c := range map[string]struct {
		acceptor *acceptor
		call     string
		code     codes.Code
		class    string
	}{
		"full":               {&acceptor{refuse: &spool.Error{Class: spool.Full}}, good, codes.ResourceExhausted, "full"},
		"wrapped":            {&acceptor{refuse: errors.Join(fmt.Errorf("a: %w", &spool.Error{Class: spool.DiskFull}))}, good, codes.Unavailable, "disk_full"},
		"too large":          {&acceptor{refuse: &spool.Error{Class: spool.TooLarge}}, good, codes.InvalidArgument, "too_large"},
		"caller gone":        {&acceptor{refuse: context.Canceled}, good, codes.Unavailable, "canceled"},
		"anything else":      {&acceptor{refuse: errors.New("planted")}, good, codes.Unavailable, "internal"},
		"panic":              {&acceptor{panics: true}, good, codes.Unavailable, "panic"},
		"no request":         {&acceptor{}, "\xff", codes.InvalidArgument, "malformed"},
		"cut":                {&acceptor{}, good[:len(good)-3], codes.InvalidArgument, "malformed"},
		"too many instances": {&acceptor{}, strings.Repeat("\x0a\x00", maxInstances+1), codes.InvalidArgument, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := &ledger{}
			door := reportDoor(t, c.acceptor, seen)
			_, err := door.report(t.Context(), reportTemplates[0], c.call)
			require.Error(t, err)
			assert.Equal(t, c.code, status.Code(err))
			assert.NotContains(t, err.Error(), "planted")
			require.Len(t, seen.reported, 1)
			assert.Equal(t, c.class, seen.reported[0].Refused.Class)
			assert.Zero(t, seen.reported[0].Accepted)
		})
	}
}

func TestSamplingPicksLogEntriesOnly(t *testing.T) {
	params := &configpb.Params{Name: "shop", Report: &configpb.Report{SampleOneIn: 4}}
	const n = 4000
	for _, template := range reportTemplates {
		a, seen := &acceptor{}, &ledger{}
		door := reportDoor(t, a, seen)
		_, err := door.report(t.Context(), template, logEntries(params, slices.Repeat([]map[string]string{nil}, n)...))
		require.NoError(t, err)
		kept := len(a.calls[0].Instances)
		delivery, err := record.ParseDelivery(a.calls[0].Delivery)
		require.NoError(t, err)
		assert.Equal(t, n, kept+seen.reported[0].Left.Sampled)
		if template.kind != record.KindLogEntry {
			assert.Equal(t, n, kept)
			continue
		}
		assert.Equal(t, int64(4), delivery.SampleOneIn)
		assert.InDelta(t, n/4, kept, n/10) // eleven standard deviations
	}
}

func TestPlansAreKeptByParams(t *testing.T) {
	seen := &ledger{}
	door := reportDoor(t, &acceptor{}, seen)
	var calls sync.WaitGroup
	for i := range 32 {
		calls.Go(func() {
			_, err := door.report(t.Context(), reportTemplates[0], logEntries(&configpb.Params{Name: fmt.Sprint("shop", i%2)}, nil))
			assert.NoError(t, err)
		})
	}
	calls.Wait()
	names := map[string]bool{}
	for _, plan := range seen.plans {
		names[plan.Handler()] = true
	}
	assert.Len(t, seen.plans, 2)
	assert.Equal(t, []string{"shop0", "shop1"}, slices.Sorted(maps.Keys(names)))

	for i := range 300 {
		_, err := door.report(t.Context(), reportTemplates[0], logEntries(&configpb.Params{Name: fmt.Sprint("shop", i)}, nil))
		require.NoError(t, err)
	}
	assert.LessOrEqual(t, door.plans.lru.Len(), testLimits().Entries)
	total := 0
	for _, key := range door.plans.lru.Keys() {
		total += len(key)
	}
	assert.Equal(t, total, door.plans.bytes)
}

// A panic of an observer must not reach gRPC, and the call is refused or accepted as if nothing had happened.
func TestPanickingObserverOfReports(t *testing.T) {
	door := reportDoor(t, &acceptor{}, panicking{})
	_, err := door.report(t.Context(), reportTemplates[0], logEntries(&configpb.Params{}, nil))
	assert.Equal(t, codes.Unavailable, status.Code(err))
}

func TestReportsOverAConnection(t *testing.T) {
	a := &acceptor{}
	connection := serve(t, reportDoor(t, a, quiet{}))
	require.NoError(t, mixertest.SendReport(t.Context(), connection, mixertest.LogEntryMethod, []byte(logEntries(&configpb.Params{}, nil))))
	assert.Len(t, a.calls, 1)
	err := mixertest.SendReport(t.Context(), connection, mixertest.LogEntryMethod, []byte("\xff"))
	assert.Equal(t, codes.InvalidArgument, status.Code(err))
	for _, service := range ReportServices() {
		method := strings.TrimSuffix(service[strings.Index(service, ".")+1:], "Service")
		require.NoError(t, mixertest.SendReport(t.Context(), connection, "/"+service+"/"+method, nil), service)
	}
}

// A user who complains about a denial can say which it was.
func TestDenialsCarryTheIDOfTheirRecord(t *testing.T) {
	engines := testEngines(testCompiler())
	engines.Recorder = recorder{id: "abcdefgh23456723"}
	door := NewDoor(engines, testLimits(), quiet{})
	check := func(params *configpb.Params, token string) (string, map[string]string) {
		result := door.check(t.Context(), checkTemplates[0], string(mixertest.Call(params, token)))
		return result.Status.Message, responseHeaders(t, result)
	}
	message, _ := check(&configpb.Params{AuthKey: proto.String("abc")}, "abc")
	assert.Empty(t, message, "an allow says nothing")
	message, headers := check(&configpb.Params{AuthKey: proto.String("abc")}, "no")
	assert.Equal(t, "not authorized (decision abcdefgh23456723)", message)
	assert.Nil(t, headers)

	denial := &configpb.Denial{Message: "go away", Http: &configpb.HttpResponse{Status: 401, Headers: map[string]string{"a": "b"}}}
	for range 2 { // the handler's own headers stay as they are
		message, headers = check(&configpb.Params{AuthKey: proto.String("abc"), Denial: denial}, "no")
		assert.Equal(t, "go away", message)
		assert.Equal(t, map[string]string{"a": "b", DecisionIDHeader: "abcdefgh23456723"}, headers)
	}
	denial.Http.Headers = nil
	_, headers = check(&configpb.Params{AuthKey: proto.String("abc"), Denial: denial}, "no")
	assert.Equal(t, map[string]string{DecisionIDHeader: "abcdefgh23456723"}, headers)

	message, _ = check(&configpb.Params{}, "abc")
	assert.Equal(t, "the request could not be checked (configuration) (decision abcdefgh23456723)", message)
}

// responseHeaders returns those of a result's HTTP response; nil where it has none.
func responseHeaders(t *testing.T, result *v1beta1.CheckResult) map[string]string {
	t.Helper()
	if len(result.Status.Details) == 0 {
		return nil
	}
	response := &policyv1beta1.DirectHttpResponse{}
	require.NoError(t, response.Unmarshal(result.Status.Details[0].Value))
	return response.Headers
}

// FuzzReport shows that no bytes panic, and that every instance is kept, left out or refused.
func FuzzReport(f *testing.F) {
	for _, params := range []*configpb.Params{{}, {Name: "shop", Report: &configpb.Report{Sinks: []string{"audit"}, Mask: []string{"u*"}, SampleOneIn: 2}}} {
		f.Add(byte(0), []byte(logEntries(params, map[string]string{"user": "alice"}, nil)))
		f.Add(byte(1), []byte(logEntries(params, nil)))
	}
	f.Add(byte(2), []byte("\x0a\x02\x0a\x7f"))
	a, seen := &acceptor{}, &ledger{}
	door := reportDoor(f, a, seen)
	f.Fuzz(func(t *testing.T, template byte, call []byte) {
		a.calls, seen.reported, seen.plans = nil, nil, nil
		_, err := door.report(t.Context(), reportTemplates[int(template)%len(reportTemplates)], string(call))
		require.Len(t, seen.reported, 1)
		r := seen.reported[0]
		require.Equal(t, err != nil, r.Refused != nil)
		if err != nil {
			require.Empty(t, a.calls)
			return
		}
		require.Len(t, a.calls, 1)
		require.Len(t, a.calls[0].Instances, r.Accepted)
		require.Equal(t, r.Instances, r.Accepted+r.Left.Malformed+r.Left.Sampled)
		for _, instance := range a.calls[0].Instances {
			require.NoError(t, record.Check(r.Kind, instance))
		}
	})
}
