package mixer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/pace"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// So many are let in; the next waits for a place as long as the limits say, or for its caller to go.
func TestAdmissionIsBoundedByCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &admission{limits: ReportLimits{Calls: 2, Bytes: 100, Wait: time.Second}}
		first, second := a.enter(t.Context()), a.enter(t.Context())
		require.NotNil(t, first)
		require.NotNil(t, second)

		begin := time.Now()
		assert.Nil(t, a.enter(t.Context()))
		assert.Equal(t, time.Second, time.Since(begin))

		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		begin = time.Now()
		assert.Nil(t, a.enter(ctx))
		assert.Equal(t, time.Millisecond, time.Since(begin))
		assert.Empty(t, a.waiting, "those who went are forgotten")

		var order []int
		for i := range 3 {
			go func() {
				if place := a.enter(t.Context()); assert.NotNil(t, place) {
					order = append(order, i)
					place.leave()
				}
			}()
			synctest.Wait()
		}
		time.Sleep(time.Second / 2)
		first.leave()
		synctest.Wait()
		assert.Equal(t, []int{0, 1, 2}, order, "in the order in which they came")
		second.leave()
		assert.Zero(t, a.calls)
	})
}

// Calls that were received bound others by their bytes, and always one is let in.
func TestAdmissionIsBoundedByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &admission{limits: ReportLimits{Calls: 10, Bytes: 100}}
		large := a.enter(t.Context())
		small := a.enter(t.Context())
		large.received(1000)
		small.received(1)
		assert.Nil(t, a.enter(t.Context()))
		large.leave()
		other := a.enter(t.Context())
		require.NotNil(t, other)
		other.leave()
		small.leave()
		assert.Zero(t, a.bytes)
		assert.Zero(t, a.calls)
	})
}

// While checks are served most reports wait, and are let in all the same when they have waited: only the bound itself refuses.
func TestAdmissionLeavesRoomForChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls, wait = 8, 50 * time.Millisecond
		checks := pace.New()
		a := &admission{limits: ReportLimits{Calls: calls, Bytes: 100, Wait: wait}, checks: checks}
		var places []*admitted
		for n := range calls {
			checks.Served(time.Now())
			begin, want := time.Now(), time.Duration(0)
			if n >= calls/besideChecks {
				want = wait
			}
			place := a.enter(t.Context())
			require.NotNil(t, place)
			assert.Equal(t, want, time.Since(begin), "%d are in", n)
			places = append(places, place)
		}
		assert.Nil(t, a.enter(t.Context()))
		for _, place := range places {
			place.leave()
		}
		time.Sleep(time.Second)
		begin := time.Now()
		for range calls {
			assert.NotNil(t, a.enter(t.Context()))
		}
		assert.Equal(t, begin, time.Now(), "without checks nobody waits")

		gone, cancel := context.WithCancel(t.Context())
		cancel()
		checks.Served(time.Now())
		a = &admission{limits: ReportLimits{Wait: wait}, checks: checks}
		assert.NotNil(t, a.enter(t.Context()), "one is let in whatever the limits say")
		assert.Nil(t, a.enter(gone))
		assert.Empty(t, a.waiting)
		assert.Equal(t, 1, a.calls)
	})
}

// Whatever a check or quota call is about, reports step aside for it; a report call makes none of the others wait.
func TestDoorTellsOfChecks(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(d *Door){
		"check": func(d *Door) { d.check(t.Context(), checkTemplates[0], "") },
		"quota": func(d *Door) { d.quota(t.Context(), "") },
	} {
		// A check is forgotten soon, so no time may pass before it is asked for.
		synctest.Test(t, func(t *testing.T) {
			engines := testEngines(testCompiler())
			engines.Quotas, engines.Acceptor, engines.Checks = testCompiler(), &acceptor{}, pace.New()
			door := NewDoor(engines, testLimits(), quiet{})
			_, _ = door.report(t.Context(), reportTemplates[0], "")
			assert.False(t, engines.Checks.Serving(), name)
			call(door)
			assert.True(t, engines.Checks.Serving(), name)
		})
	}
}

// What is refused is not received, and counted.
func TestReportsPastTheirBoundAreRefused(t *testing.T) {
	// In a time of its own: a call keeps its place only as long as it is quick.
	synctest.Test(t, func(t *testing.T) {
		a, seen, traced := &acceptor{}, &ledger{}, &spans{}
		door := reportDoor(t, a, seen)
		door.tracer = traced
		door.BoundReports(ReportLimits{Calls: 1, Bytes: 1 << 20})
		template := reportTemplates[0]
		text := logEntries(&configpb.Params{Name: "shop"}, nil)
		var inner error
		_, err := door.admitReport(t.Context(), template, func() (string, error) {
			_, inner = door.admitReport(t.Context(), template, func() (string, error) {
				t.Error("the second call was received")
				return "", nil
			})
			return text, nil
		})
		require.NoError(t, err)
		assert.Equal(t, codes.ResourceExhausted, status.Code(inner))
		require.Len(t, seen.reported, 2)
		assert.Equal(t, "overload", seen.reported[0].Refused.Class)
		assert.Equal(t, report.Reported{Handler: "shop", Kind: template.kind, Instances: 1, Accepted: 1}, seen.reported[1])

		// A caller who went is not overload, and one whose call cannot be received makes room again.
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = door.admitReport(t.Context(), template, func() (string, error) {
			_, inner = door.admitReport(gone, template, nil)
			return "", errors.New("cut off")
		})
		require.EqualError(t, err, "cut off")
		require.Error(t, inner)
		assert.Equal(t, "canceled", seen.reported[2].Refused.Class)
		_, err = door.admitReport(t.Context(), template, func() (string, error) { return text, nil })
		require.NoError(t, err)
		assert.Equal(t, seen.reported, traced.reported, "whoever follows a trace finds the refusal")
	})
}

// spans is a tracer of reports.
type spans struct {
	Tracer

	reported []report.Reported
}

func (s *spans) Reported(_ context.Context, _ time.Time, _, _ string, reported report.Reported) {
	s.reported = append(s.reported, reported)
}

// A caller who takes his time to send has no place meanwhile, and needs one when he is done.
func TestSlowReportsHoldNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, seen := &acceptor{}, &ledger{}
		door := reportDoor(t, a, seen)
		door.BoundReports(ReportLimits{Calls: 1, Bytes: 1 << 20, Wait: time.Minute})
		template := reportTemplates[0]
		text := logEntries(&configpb.Params{Name: "shop"}, nil)
		after := func(d time.Duration, err error) func() (string, error) {
			return func() (string, error) {
				time.Sleep(d)
				return text, err
			}
		}
		begin := time.Now()
		for _, err := range []error{nil, errors.New("cut off")} {
			go func() { _, _ = door.admitReport(t.Context(), template, after(time.Hour, err)) }()
		}
		synctest.Wait()
		_, err := door.admitReport(t.Context(), template, after(0, nil))
		require.NoError(t, err)
		assert.Equal(t, 2*maxReceiving, time.Since(begin), "both slow ones had the place for as long as they may")

		held := make(chan struct{})
		time.Sleep(time.Hour - 2*time.Second)
		place := door.admission.enter(t.Context())
		time.AfterFunc(time.Minute/2, func() { place.leave(); close(held) })
		<-held
		synctest.Wait()
		assert.Len(t, a.calls, 2, "the slow call that was not cut off has come as well")
		assert.Zero(t, door.admission.calls)
		assert.Zero(t, door.admission.bytes)
	})
}

// A call that waits for a sink keeps no other away, save by its bytes.
func TestWaitingReportsLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &admission{limits: ReportLimits{Calls: 1, Bytes: 100}}
		stuck := a.enter(t.Context())
		stuck.received(60)
		assert.Nil(t, a.enter(t.Context()))
		stuck.rest()
		other := a.enter(t.Context())
		require.NotNil(t, other)
		other.received(40)
		other.rest()
		assert.Nil(t, a.enter(t.Context()), "the bytes are there as long as the calls")
		stuck.leave()
		other.leave()
		assert.Zero(t, a.calls)
		assert.Zero(t, a.bytes)
	})
}

// stuckAcceptor keeps a handler's calls waiting.
type stuckAcceptor struct {
	handler string
	until   chan struct{}
}

func (s *stuckAcceptor) Accept(_ context.Context, call *report.Call) error {
	if call.Handler == s.handler {
		<-s.until
	}
	return nil
}

func TestReportsToAFullSinkKeepNoOthersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := testEngines(testCompiler())
		full := &stuckAcceptor{handler: "stuck", until: make(chan struct{})}
		engines.Acceptor = full
		door := NewDoor(engines, testLimits(), quiet{})
		door.BoundReports(ReportLimits{Calls: 1, Bytes: 1 << 20, Wait: 2 * maxWaiting})
		send := func(handler string) error {
			_, err := door.admitReport(t.Context(), reportTemplates[0], func() (string, error) {
				return logEntries(&configpb.Params{Name: handler}, nil), nil
			})
			return err
		}
		for range 3 {
			go func() { assert.NoError(t, send("stuck")) }()
			synctest.Wait()
			time.Sleep(2 * maxWaiting)
		}
		require.NoError(t, send("other"))
		close(full.until)
		synctest.Wait()
		assert.Zero(t, door.admission.calls)
		assert.Zero(t, door.admission.bytes)
	})
}
