package decisionlog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/decisionlog"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// acceptor keeps calls of at most so many records, after a while.
type acceptor struct {
	most  int
	err   error
	after int // calls that are kept before err
	takes time.Duration

	mu    sync.Mutex
	calls []*report.Call
}

func (a *acceptor) Accept(_ context.Context, call *report.Call) error {
	time.Sleep(a.takes)
	switch {
	case a.most > 0 && len(call.Instances) > a.most:
		return &spool.Error{Class: spool.TooLarge}
	case a.err != nil && len(a.calls) >= a.after:
		return a.err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, call)
	return nil
}

// records returns all that was accepted.
func (a *acceptor) records(t *testing.T) (all []record.Decision) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, call := range a.calls {
		assert.Equal(t, record.KindDecision, call.Kind)
		for _, raw := range call.Instances {
			d, err := record.DecodeDecision(raw)
			require.NoError(t, err)
			all = append(all, d)
		}
	}
	return all
}

// run runs a log until the returned function is called, which returns when all is handed over.
func run(log *decisionlog.Log) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		log.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func handler(log config.DecisionLog) *config.Handler {
	return &config.Handler{Name: "shop", Fingerprint: "0123456789ab", DecisionLog: log}
}

var (
	request = &policy.Request{Instance: "auth.instance.ns", Subject: &policy.Subject{User: "alice"}}
	allow   = policy.Decision{Lifetime: config.Lifetime{Duration: time.Second, Uses: 1}, Check: "header/key", Reason: "header_match", Revision: "r"}
	deny    = policy.Decision{Code: config.PermissionDenied, Reason: "header_mismatch"}
	opened  = policy.Fail(config.Timeout, "d").Resolve(config.Modes{}.With(config.Timeout, config.Open))
	closed  = policy.Fail(config.Timeout, "d").Resolve(config.Modes{})
)

func TestWhichDecisionsAreRecorded(t *testing.T) {
	for name, c := range map[string]struct {
		log  config.DecisionLog
		want []string
	}{
		"none":    {config.DecisionLog{}, nil},
		"denials": {config.DecisionLog{Record: config.RecordDenials}, []string{"deny", "failed_open", "failed_closed"}},
		"sampled": {config.DecisionLog{Record: config.RecordSampled, SampleOneIn: math.MaxInt64}, []string{"deny", "failed_open", "failed_closed"}},
		"all":     {config.DecisionLog{Record: config.RecordAll}, []string{"allow", "deny", "failed_open", "failed_closed"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &acceptor{}
			log := decisionlog.New(a, decisionlog.Options{})
			end := run(log)
			ids := map[string]string{}
			for _, d := range []policy.Decision{allow, deny, opened, closed} {
				if id := log.Record("", handler(c.log), request, d, 1500*time.Microsecond); id != "" {
					assert.Regexp(t, "^[a-z2-7]{16}$", id)
					ids[id] = d.Outcome()
				}
			}
			end()
			var got []string
			for _, d := range a.records(t) {
				got = append(got, d.Outcome)
				assert.Equal(t, ids[d.ID], d.Outcome, "the id that was told is the record's")
				assert.Equal(t, 1500*time.Microsecond, d.Latency)
				if d.Outcome == "failed_open" {
					assert.Equal(t, "timeout", d.Class)
					assert.Equal(t, "OK", d.Code)
				}
			}
			assert.Equal(t, c.want, got)
			assert.Len(t, ids, len(c.want))
			assert.Equal(t, decisionlog.Stats{Recorded: uint64(len(c.want))}, log.Stats())
		})
	}
	log := decisionlog.New(&acceptor{}, decisionlog.Options{})
	assert.Empty(t, log.Record("", nil, request, deny, 0), "a call without a known handler has no log")
}

func TestAllowsAreSampled(t *testing.T) {
	const n, one = 10_000, 4
	log := decisionlog.New(&acceptor{}, decisionlog.Options{Waiting: n})
	h := handler(config.DecisionLog{Record: config.RecordSampled, SampleOneIn: one})
	for range n {
		log.Record("", h, request, allow, 0)
	}
	assert.InDelta(t, n/one, log.Stats().Waiting, 500) // more than eleven standard deviations
}

// A check never waits: what finds no room is counted and gone.
func TestRecordNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &acceptor{takes: time.Hour}
		log := decisionlog.New(a, decisionlog.Options{Waiting: 10, Batch: 5})
		h := handler(config.DecisionLog{Record: config.RecordAll})
		end := run(log)
		start := time.Now()
		const n = 100
		for range n {
			assert.NotEmpty(t, log.Record("", h, request, allow, 0))
		}
		assert.Zero(t, time.Since(start))
		end()
		s := log.Stats()
		assert.Positive(t, s.Crowded)
		assert.Equal(t, uint64(n), s.Recorded+s.Crowded)
		assert.Len(t, a.records(t), int(s.Recorded))
	})
}

// Neither do large ones take the memory.
func TestRecordsThatWaitAreBoundedInBytes(t *testing.T) {
	large := &policy.Request{Subject: &policy.Subject{User: strings.Repeat("x", 1000)}}
	log := decisionlog.New(&acceptor{}, decisionlog.Options{WaitingBytes: 5000})
	h := handler(config.DecisionLog{Record: config.RecordAll})
	for range 10 {
		log.Record("", h, large, allow, 0)
	}
	assert.Equal(t, decisionlog.Stats{Waiting: 4, Crowded: 6}, log.Stats())
	run(log)()
	for range 4 {
		log.Record("", h, large, allow, 0)
	}
	assert.Equal(t, decisionlog.Stats{Waiting: 4, Crowded: 6, Recorded: 4}, log.Stats(), "the room comes back")
}

func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &acceptor{}
		log := decisionlog.New(a, decisionlog.Options{Batch: 3, Wait: time.Second})
		end := run(log)
		defer end()
		first, second := handler(config.DecisionLog{Record: config.RecordAll}), handler(config.DecisionLog{Record: config.RecordAll})
		second.Name, second.Fingerprint = "other", "f"
		sizes := func() (all []string) {
			synctest.Wait()
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, call := range a.calls {
				all = append(all, fmt.Sprint(call.Handler, " ", len(call.Instances)))
			}
			a.calls = nil
			return all
		}
		log.Record("", first, request, allow, 0)
		log.Record("", second, request, allow, 0)
		assert.Empty(t, sizes(), "a batch waits for more")
		time.Sleep(time.Second)
		assert.Equal(t, []string{"shop 1", "other 1"}, sizes(), "but not for ever, and handlers do not mix")
		for range 4 {
			log.Record("", first, request, allow, 0)
		}
		assert.Equal(t, []string{"shop 3"}, sizes(), "a full one waits no longer")
	})
}

func TestRecordsHaveTheirCaller(t *testing.T) {
	a := &acceptor{}
	log := decisionlog.New(a, decisionlog.Options{})
	h := handler(config.DecisionLog{Record: config.RecordAll})
	ids := map[string][]string{}
	for _, caller := range []string{"a", "b", "", "a"} { // before Run, so that they wait together
		ids[caller] = append(ids[caller], log.Record(caller, h, request, allow, 0))
	}
	run(log)()
	got := map[string][]string{}
	for _, call := range a.calls {
		for _, raw := range call.Instances {
			d, err := record.DecodeDecision(raw)
			require.NoError(t, err)
			got[call.Caller] = append(got[call.Caller], d.ID)
		}
	}
	assert.Equal(t, ids, got)
	assert.Len(t, a.calls, 3, "callers do not mix")
}

func TestSinks(t *testing.T) {
	for name, c := range map[string]struct{ named, want []string }{
		"none":    {nil, []string{"main"}},
		"known":   {[]string{"audit", "main"}, []string{"audit", "main"}},
		"unknown": {[]string{"audit", "nowhere"}, []string{"main"}},
	} {
		a := &acceptor{}
		log := decisionlog.New(a, decisionlog.Options{Sinks: []string{"main", "audit"}, Default: []string{"main"}})
		end := run(log)
		log.Record("", handler(config.DecisionLog{Record: config.RecordAll, Sinks: c.named}), request, allow, 0)
		end()
		require.Len(t, a.calls, 1, name)
		assert.Equal(t, c.want, a.calls[0].Sinks, name)
	}
}

func TestRefusals(t *testing.T) {
	var complaints []error
	full := &spool.Error{Class: spool.Full}
	log := decisionlog.New(&acceptor{err: full}, decisionlog.Options{Complain: func(err error) { complaints = append(complaints, err) }})
	end := run(log)
	h := handler(config.DecisionLog{Record: config.RecordAll})
	log.Record("", h, request, allow, 0)
	log.Record("", h, request, allow, 0)
	end()
	assert.Equal(t, uint64(2), log.Stats().Refused)
	require.NotEmpty(t, complaints)
	require.ErrorIs(t, complaints[0], full)

	a := &acceptor{most: 1}
	log = decisionlog.New(a, decisionlog.Options{})
	end = run(log)
	for range 5 {
		log.Record("", h, request, allow, 0)
	}
	end()
	assert.Len(t, a.records(t), 5, "what is too large together is handed over in parts")

	a = &acceptor{most: 2, err: full, after: 1}
	log = decisionlog.New(a, decisionlog.Options{})
	for range 5 { // before Run, so that they wait together
		log.Record("", h, request, allow, 0)
	}
	run(log)()
	assert.Len(t, a.records(t), 2)
	assert.Equal(t, decisionlog.Stats{Recorded: 2, Refused: 3}, log.Stats(), "a part that is kept is recorded, whatever becomes of the others")

	log = decisionlog.New(nil, decisionlog.Options{Complain: func(err error) { complaints = append(complaints, err) }})
	end = run(log)
	log.Record("", h, request, allow, 0)
	end()
	assert.Equal(t, uint64(1), log.Stats().Refused, "a panic costs its records alone")
	assert.NotEmpty(t, log.Record("", h, nil, allow, 0), "a request that cannot be written costs its record alone")
	assert.Equal(t, uint64(2), log.Stats().Refused)
	assert.ErrorContains(t, errors.Join(complaints...), "panicked")
}

// docs/records.md shows a line as it is written, but for the record's id and the time.
func TestDocumentedLine(t *testing.T) {
	a := &acceptor{}
	log := decisionlog.New(a, decisionlog.Options{})
	h := handler(config.DecisionLog{Record: config.RecordAll, Mask: []string{"custom_token_header"}})
	log.Record("", h, &policy.Request{
		Instance: "authinstance.instance.istio-system",
		Subject: &policy.Subject{User: "alice", Properties: attribute.Map{
			{Name: "custom_token_header", Value: attribute.OfText(attribute.String, "planted")},
		}},
		Action: &policy.Action{Method: "PUT"},
	}, policy.Decision{
		Code: config.PermissionDenied, Check: "rego/mixerauthz.allow", Reason: "not an editor", Revision: "5d41402abc4b",
	}, 41_250*time.Nanosecond)
	run(log)()
	line, err := record.AppendJSON(nil, &record.Record{Kind: record.KindDecision, Raw: a.calls[0].Instances[0]})
	require.NoError(t, err)
	id := regexp.MustCompile(`"decision_id":"[a-z2-7]{16}"`)
	_, written, ok := strings.Cut(string(id.ReplaceAll(line, []byte("<id>"))), `"arrived":"0001-01-01T00:00:00Z",`)
	require.True(t, ok)
	page, err := os.ReadFile("../../docs/records.md")
	require.NoError(t, err)
	assert.Contains(t, string(id.ReplaceAll(page, []byte("<id>"))), written)
}

func TestInput(t *testing.T) {
	full := &policy.Request{
		Subject: &policy.Subject{User: "alice", Groups: "admins", Properties: attribute.Map{
			{Name: "key", Value: attribute.OfText(attribute.String, "planted")},
			{Name: "Authorization", Value: attribute.OfText(attribute.String, "planted")},
			{Name: "cookie", Value: attribute.OfText(attribute.String, "planted")},
			{Name: "plan", Value: attribute.OfText(attribute.String, "gold")},
		}},
		Action: &policy.Action{Namespace: "default", Service: "shop", Method: "GET", Path: "/", Properties: attribute.Map{
			{Name: "key", Value: attribute.OfText(attribute.String, "visible")},
			{Name: "int", Value: attribute.OfInt64(7)},
			{Name: "double", Value: attribute.OfDouble(0.5)},
			{Name: "nan", Value: attribute.OfDouble(math.NaN())},
			{Name: "inf", Value: attribute.OfDouble(math.Inf(1))},
			{Name: "neg", Value: attribute.OfDouble(math.Inf(-1))},
			{Name: "bool", Value: attribute.OfBool(true)},
			{Name: "ip", Value: attribute.OfIP("\x0a\x00\x00\x01")},
			{Name: "time", Value: attribute.OfTimestamp(0, 5)},
			{Name: "duration", Value: attribute.OfDuration(1, 500_000_000)},
			{Name: "unknown"},
			{Name: "token", Value: attribute.OfText(attribute.String, "planted")},
		}},
	}
	properties := `"bool":true,"double":0.5,"duration":1.5,"inf":"+Inf","int":7,"ip":"10.0.0.1","key":"visible","nan":"NaN","neg":"-Inf","time":"1970-01-01T00:00:00.000000005Z","token":"***","unknown":null`
	value, made := attribute.OfText(attribute.String, "10.0.0.1"), attribute.OfTimestamp(0, 0)
	call := &policy.Request{Value: &value, API: &policy.API{Name: "n", Version: "v", Operation: "o", Key: "planted", Time: &made}}
	quota := &policy.Request{Quota: &policy.Quota{Amount: 7, BestEffort: true, Dimensions: attribute.Map{
		{Name: "user", Value: attribute.OfText(attribute.String, "alice")},
		{Name: "size", Value: attribute.OfInt64(5)},
		{Name: "cookie", Value: attribute.OfText(attribute.String, "planted")},
	}}}
	for name, c := range map[string]struct {
		log     config.DecisionLog
		request *policy.Request
		want    string
	}{
		"a quota":                 {config.DecisionLog{}, quota, `{"key":"partner","quota":{"amount":7,"best_effort":true,"dimensions":{"cookie":"***","size":5,"user":"alice"},"granted":3}}`},
		"a quota, masked":         {config.DecisionLog{Mask: []string{"user"}, Drop: []string{"size", "key"}}, quota, `{"quota":{"amount":7,"best_effort":true,"dimensions":{"cookie":"***","user":"***"},"granted":3}}`},
		"an API call, by a key":   {config.DecisionLog{}, call, `{"api":{"key":"***","name":"n","operation":"o","timestamp":"1970-01-01T00:00:00Z","version":"v"},"key":"partner","value":"10.0.0.1"}`},
		"an API call, masked":     {config.DecisionLog{Mask: []string{"api.name", "value", "key", "api.timestamp"}}, call, `{"api":{"key":"***","name":"***","operation":"o","timestamp":"***","version":"v"},"key":"***","value":"***"}`},
		"an API call, left out":   {config.DecisionLog{Drop: []string{"api.*", "value", "key"}}, call, `{"api":{}}`},
		"an API call, of nothing": {config.DecisionLog{}, &policy.Request{API: &policy.API{}}, `{"api":{}}`},
		"nothing":                 {config.DecisionLog{}, &policy.Request{}, `{}`},
		"empty":                   {config.DecisionLog{}, &policy.Request{Subject: &policy.Subject{}, Action: &policy.Action{}}, `{"action":{},"subject":{}}`},
		"credentials are masked": {config.DecisionLog{}, full, `{"action":{"method":"GET","namespace":"default","path":"/","properties":{` + properties + `},"service":"shop"},
			"subject":{"groups":"admins","properties":{"Authorization":"***","cookie":"***","key":"***","plan":"gold"},"user":"alice"}}`},
		"drop and mask": {
			config.DecisionLog{Drop: []string{"action.*", "k*", "i*"}, Mask: []string{"subject.user", "p*", "d*", "n*", "time", "bool", "unknown"}},
			full, `{"action":{"properties":{"bool":"***","double":"***","duration":"***","nan":"***","neg":"***","time":"***","token":"***","unknown":"***"}},
			"subject":{"groups":"admins","properties":{"Authorization":"***","cookie":"***","plan":"***"},"user":"***"}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := handler(c.log)
			h.DecisionLog.Record = config.RecordAll
			h.Headers = []config.HeaderCheck{{Property: config.Property{Name: "key"}}}
			h.APIKeys = []config.APIKeyCheck{{Property: config.Property{Name: "token", Action: true}}, {}}
			decision := deny
			if c.request == call || c.request == quota {
				decision.Identity = "partner"
				decision.Granted = 3
			}
			a := &acceptor{}
			log := decisionlog.New(a, decisionlog.Options{})
			end := run(log)
			log.Record("", h, c.request, decision, 0)
			end()
			input := a.records(t)[0].Input
			assert.True(t, json.Valid([]byte(input)))
			assert.JSONEq(t, c.want, input)
			assert.NotContains(t, input, "planted")
		})
	}
}

func BenchmarkRecord(b *testing.B) {
	for name, recording := range map[string]config.Recording{"off": config.RecordNone, "all": config.RecordAll} {
		b.Run(name, func(b *testing.B) {
			log := decisionlog.New(&acceptor{}, decisionlog.Options{})
			defer run(log)()
			h := handler(config.DecisionLog{Record: recording})
			b.ReportAllocs()
			for b.Loop() {
				log.Record("", h, request, deny, 0)
			}
		})
	}
}

// A token or a password is a credential, wherever a handler says it is.
func TestTokensAreMasked(t *testing.T) {
	t.Parallel()
	token, other := config.Property{Name: "token"}, config.Property{Action: true, Name: "other"}
	for _, set := range []func(h *config.Handler){
		func(h *config.Handler) { h.JWT = []config.JWTCheck{{Property: token}, {Property: other}} },
		func(h *config.Handler) { h.Basic = []config.BasicCheck{{Property: token}, {Property: other}} },
	} {
		h := handler(config.DecisionLog{Record: config.RecordAll})
		set(h)
		requireMasked(t, h)
	}
}

// requireMasked records a decision on properties of which the handler says that they are credentials.
func requireMasked(t *testing.T, h *config.Handler) {
	t.Helper()
	properties := attribute.Map{}
	for _, name := range []string{"token", "other"} {
		properties = append(properties, attribute.Entry{Name: name, Value: attribute.OfText(attribute.String, name+" value")})
	}
	a := &acceptor{}
	log := decisionlog.New(a, decisionlog.Options{})
	end := run(log)
	log.Record("", h, &policy.Request{Subject: &policy.Subject{Properties: properties}, Action: &policy.Action{Properties: properties}}, deny, 0)
	end()
	assert.JSONEq(t, `{"subject":{"properties":{"token":"***","other":"other value"}},"action":{"properties":{"token":"token value","other":"***"}}}`,
		a.records(t)[0].Input)
}
