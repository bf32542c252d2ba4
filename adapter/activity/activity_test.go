package activity_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/activity"
	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	shop = &config.Handler{
		Name: "shop", Fingerprint: "0123456789ab",
		Headers: []config.HeaderCheck{{Name: "key", Property: config.Property{Name: "token"}}},
	}
	allow = policy.Decision{Check: "header/key", Reason: "header_match", Revision: "0123456789ab"}
	deny  = policy.Decision{Code: config.PermissionDenied, Check: "header/key", Reason: "header_mismatch", Revision: "0123456789ab", Message: "planted"}
)

func request() *policy.Request {
	return &policy.Request{Instance: "auth.instance.ns", Subject: &policy.Subject{User: "alice", Properties: attribute.Map{
		{Name: "token", Value: attribute.OfText(attribute.String, "planted")},
		{Name: "Authorization", Value: attribute.OfText(attribute.String, "Bearer planted")},
	}}}
}

func decided(a *activity.Activity, id string, h *config.Handler, d policy.Decision) {
	a.Decided(id, "spiffe://mixer", h, request(), &d, time.Millisecond)
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := activity.New()
		assert.Empty(t, a.Handlers())
		began := time.Now()
		decided(a, "", shop, allow)
		time.Sleep(time.Second)
		decided(a, "", shop, deny)
		time.Sleep(time.Second)
		decided(a, "", shop, policy.Fail(config.Timeout, "too late").Resolve(config.Modes{}))
		decided(a, "", nil, policy.Fail(config.MalformedRequest, "what is that").Resolve(config.Modes{}))
		decided(a, "", shop, policy.Fail(config.Timeout, "too late").Resolve(config.Modes{}.With(config.Timeout, config.Open)))
		all := a.Handlers()
		require.Len(t, all, 2)
		h := all[0]
		assert.Equal(t, "shop", h.Name)
		assert.Equal(t, "0123456789ab", h.Fingerprint)
		assert.Equal(t, []uint64{1, 1, 1, 1}, []uint64{h.Allow, h.Deny, h.FailedOpen, h.FailedClosed})
		assert.WithinDuration(t, began, h.First, 0)
		assert.WithinDuration(t, began.Add(2*time.Second), h.Last, 0)
		require.Len(t, h.Allows, 1)
		require.Len(t, h.Refusals, 3)
		assert.Equal(t, activity.Decision{
			Time: began.Add(time.Second), Handler: "shop", Revision: "0123456789ab", Instance: "auth.instance.ns", Caller: "spiffe://mixer",
			Outcome: "deny", Code: "PERMISSION_DENIED", Check: "header/key", Reason: "header_mismatch", Elapsed: time.Millisecond,
		}, h.Refusals[2])
		assert.Equal(t, "too late", h.Refusals[0].Detail)
		assert.Equal(t, "timeout", h.Refusals[0].Class)
		assert.Equal(t, "unknown", all[1].Name)
		assert.Equal(t, uint64(1), all[1].FailedClosed)
	})
}

// What was decided on shows where, and as, the handler's decision log has it; credentials never.
func TestInput(t *testing.T) {
	t.Parallel()
	a := activity.New()
	decided(a, "", shop, deny)
	decided(a, "decision-1", shop, deny)
	kept := a.Handlers()[0].Refusals
	require.Len(t, kept, 2)
	if kept[0].ID == "" {
		kept[0], kept[1] = kept[1], kept[0]
	}
	assert.JSONEq(t, `{"subject": {"user": "alice", "properties": {"token": "***", "Authorization": "***"}}}`, kept[0].Input)
	assert.Equal(t, "decision-1", kept[0].ID)
	assert.Empty(t, kept[1].Input)
	assert.NotContains(t, fmt.Sprint(a.Handlers()), "planted")
}

// Nothing that is kept holds on to the memory of the call.
func TestNothingAliasesTheCall(t *testing.T) {
	t.Parallel()
	buffer := []byte("auth.instance.ns")
	a := activity.New()
	a.Decided("", "", shop, &policy.Request{Instance: unsafe.String(&buffer[0], len(buffer))}, &deny, 0)
	copy(buffer, "reused")
	assert.Equal(t, "auth.instance.ns", a.Handlers()[0].Refusals[0].Instance)
}

// The latest are kept, and under load a sample of them.
func TestKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := activity.New()
		for i := range 100 {
			time.Sleep(time.Second)
			d := deny
			d.Reason = fmt.Sprint("r", i)
			decided(a, "", shop, d)
			decided(a, "", shop, allow)
		}
		h := a.Handlers()[0]
		require.Len(t, h.Refusals, 8)
		for i, d := range h.Refusals {
			assert.Equal(t, fmt.Sprint("r", 99-i), d.Reason)
		}
		assert.Len(t, h.Allows, 2)

		// A flood is counted in full, and of a second some fifty are looked at.
		for i := range 100_000 {
			d := deny
			d.Reason = fmt.Sprint("flood ", i)
			decided(a, "", shop, d)
		}
		time.Sleep(20 * time.Millisecond)
		decided(a, "", shop, policy.Decision{Code: config.PermissionDenied, Reason: "the last"})
		h = a.Handlers()[0]
		assert.Equal(t, uint64(100_101), h.Deny)
		assert.Equal(t, "the last", h.Refusals[0].Reason)
		assert.Equal(t, "flood 6", h.Refusals[1].Reason)
	})
}

func TestLongTextsAreCut(t *testing.T) {
	t.Parallel()
	a := activity.New()
	d := deny
	d.Reason = strings.Repeat("é", 100_000)
	decided(a, "", shop, d)
	kept := a.Handlers()[0].Refusals[0].Reason
	assert.Less(t, len(kept), 2000)
	assert.True(t, strings.HasSuffix(kept, "é…"))
}

func TestHandlersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := activity.New()
		for i := range 1000 {
			time.Sleep(50 * time.Millisecond)
			decided(a, "", shop, allow) // the one that is always used stays
			time.Sleep(50 * time.Millisecond)
			decided(a, "", &config.Handler{Name: fmt.Sprint("h", i), Fingerprint: fmt.Sprint("f", i)}, allow)
			a.Reported(&report.Reported{Handler: fmt.Sprint("h", i)})
		}
		all := a.Handlers()
		require.Len(t, all, 256)
		assert.Equal(t, "h999", all[0].Name)
		assert.Equal(t, "shop", all[1].Name)
		assert.Equal(t, uint64(1000), all[1].Allow)
		assert.Len(t, a.Reports(), 256)
	})
}

// Where more handlers are in use than there is room for, they do not push each other out at every call.
func TestMoreHandlersThanThereIsRoomFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const many, rounds = 300, 10
		a := activity.New()
		for range rounds {
			for i := range many {
				h := &config.Handler{Name: fmt.Sprint("h", i), Fingerprint: fmt.Sprint("f", i)}
				decided(a, "", h, deny)
				a.Reported(&report.Reported{Handler: h.Name})
			}
		}
		counted, others := uint64(0), uint64(0)
		all := a.Handlers()
		for _, h := range all {
			counted += h.Deny
			if h.Name == "other" {
				others = h.Deny
				for _, refusal := range h.Refusals {
					assert.Regexp(t, `^h\d+$`, refusal.Handler, "it is told whose it was")
				}
			}
		}
		assert.Len(t, all, 256+1)
		assert.EqualValues(t, many*rounds, counted+1, "but for that of the one that was replaced")
		assert.EqualValues(t, (many-256)*rounds-1, others)
		assert.Len(t, a.Reports(), 256+1)
	})
}

func TestCompiled(t *testing.T) {
	t.Parallel()
	a := activity.New()
	a.Compiled(policy.Broken(shop, policy.Fail(config.ConfigurationFailure, "headers[0]: is wrong")))
	h := a.Handlers()[0]
	assert.Equal(t, "headers[0]: is wrong", h.Problems)
	assert.Equal(t, "all closed", h.Modes)
	assert.True(t, h.Last.IsZero())
	a.Compiled((&policy.Compiler{Kinds: []policy.Kind{kind{}}}).Compile(shop, nil))
	require.Len(t, a.Handlers(), 1)
	h = a.Handlers()[0]
	assert.Empty(t, h.Problems)
	assert.Equal(t, []string{"stub"}, h.Checks)
}

type kind struct{ policy.Check }

func (kind) Name() string      { return "stub" }
func (kind) Cost() policy.Cost { return policy.Instant }
func (kind) Compile(*config.Handler) ([]policy.Check, config.Problems) {
	return []policy.Check{kind{}}, nil
}

func TestReports(t *testing.T) {
	t.Parallel()
	a := activity.New()
	planner := &report.Planner{Sinks: []string{"main"}, Default: []string{"main"}}
	a.Planned(planner.Plan(&config.Handler{Name: "shop", Report: config.Report{Sinks: []string{"none"}}}, nil))
	a.Reported(&report.Reported{Handler: "shop", Kind: record.KindLogEntry, Instances: 5, Accepted: 3, Left: report.Left{Malformed: 1, Sampled: 1}})
	a.Reported(&report.Reported{Handler: "shop", Kind: record.KindLogEntry, Instances: 5, Refused: report.Refuse("full", errors.New("no room"))})
	all := a.Reports()
	require.Len(t, all, 1)
	r := all[0]
	assert.Contains(t, r.Problems, `report.sinks[0]: is "none"`)
	assert.Equal(t, "full: no room", r.Refusal)
	assert.Equal(t, []uint64{2, 1, 3, 2}, []uint64{r.Calls, r.Refused, r.Accepted, r.Left})
	a.Planned(planner.Plan(&config.Handler{Name: "shop"}, nil))
	assert.Empty(t, a.Reports()[0].Problems)
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	a := activity.New()
	const goroutines, each = 8, 500
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range each {
				h := &config.Handler{Name: fmt.Sprint("h", (g+i)%20), Fingerprint: fmt.Sprint("f", (g+i)%20)}
				decided(a, "id", h, allow)
				decided(a, "", h, deny)
				a.Compiled(policy.Broken(h, policy.Fail(config.Panic, "d")))
				a.Reported(&report.Reported{Handler: h.Name, Refused: report.Refuse("", errors.New("x"))})
				if i%100 == 0 {
					a.Handlers()
					a.Reports()
				}
			}
		})
	}
	all.Wait()
	var total uint64
	for _, h := range a.Handlers() {
		total += h.Allow + h.Deny
	}
	assert.Equal(t, uint64(2*goroutines*each), total)
}

func BenchmarkDecided(b *testing.B) {
	r := request()
	for name, c := range map[string]struct {
		id string
		d  *policy.Decision
	}{"allow": {"", &allow}, "deny": {"", &deny}, "deny, recorded": {"id", &deny}} {
		b.Run(name, func(b *testing.B) {
			a := activity.New()
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					a.Decided(c.id, "spiffe://mixer", shop, r, c.d, time.Millisecond)
				}
			})
		})
	}
}
