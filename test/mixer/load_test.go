package mixer_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
)

// testCrowd has 64 callers ask at once, half of them for what is denied.
func testCrowd(t *testing.T, s *suite) {
	const callers, rounds = 64, 25
	var wait sync.WaitGroup
	for caller := range callers {
		wait.Go(func() {
			for round := range rounds {
				me, right := strconv.Itoa(caller*rounds+round), (caller+round)%2 == 0
				want, key, user := denied, "planted-wrong-"+me, "caller-somebody"
				if right {
					want, key, user = allowed, "planted-key", "caller-"+me
				}
				s.expect(t, want, "/crowd-header", token(key)...)
				s.expect(t, want, "/crowd-rego", "x-user", user, "x-method", me)
			}
		})
	}
	wait.Wait()
}

// outcome is what one request of the load came to.
type outcome struct {
	begun, ended time.Time
	right        bool // the request had the right token
	verdict      *mesh.Verdict
	err          error
}

// testRestart kills Tollgate under load and starts it again. Mixer's answer in between is an error, which a proxy refuses
// unless the mesh says otherwise; it must never be a decision that nobody made.
func testRestart(t *testing.T, s *suite) {
	s.expect(t, allowed, "/fragile", token("planted-key")...)
	s.expect(t, denied, "/fragile", token("planted-wrong")...)

	// The load ends between calls, not within one.
	calls, load := t.Context(), make(chan struct{})
	var (
		mu       sync.Mutex
		outcomes []outcome
		wait     sync.WaitGroup
	)
	for caller := range 8 {
		wait.Go(func() {
			for i := caller; running(load); i++ {
				o := outcome{begun: time.Now(), right: i%2 == 0}
				key := "planted-wrong"
				if o.right {
					key = "planted-key"
				}
				o.verdict, o.err = s.mixer.Check(calls, request("/fragile", token(key)...))
				o.ended = time.Now()
				mu.Lock()
				outcomes = append(outcomes, o)
				mu.Unlock()
				if o.err != nil {
					time.Sleep(5 * time.Millisecond) // an error comes at once, and there would be thousands
				}
			}
		})
	}
	// enough waits for some outcomes of a kind.
	enough := func(what string, counts func(outcome) bool) {
		t.Helper()
		waitFor(t, what, func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			n := 0
			for _, o := range outcomes {
				if counts(o) {
					n++
				}
			}
			if n < 100 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}
	enough("answers", func(o outcome) bool { return o.err == nil })
	killing := time.Now()
	s.fragile.Kill()
	gone := time.Now()
	enough("requests that find nobody", func(o outcome) bool { return o.begun.After(gone) })
	starting := time.Now()
	require.NoError(t, s.fragile.Start(t.Context()))
	s.await(t, "Mixer to find Tollgate again", request("/fragile", token("planted-key")...), func(a answer) bool { return a == allowed })
	recovered := time.Now()
	enough("requests after the outage", func(o outcome) bool { return o.begun.After(recovered) })
	close(load)
	wait.Wait()

	var before, during, between, after int
	for _, o := range outcomes {
		s.heard(o.verdict, o.err)
		switch {
		case o.err != nil:
			assert.Equal(t, codes.Internal, status.Code(o.err), "%v", o.err)
			assert.True(t, o.ended.After(killing) && o.begun.Before(recovered), "an error while Tollgate ran: %v", o.err)
			between++
		case o.right:
			assert.Equal(t, allowed.String(), answerOf(o.verdict).String())
		default:
			assert.Equal(t, denied.String(), answerOf(o.verdict).String())
		}
		switch {
		case o.ended.Before(killing):
			before++
		case o.begun.After(gone) && o.ended.Before(starting):
			require.Error(t, o.err, "nobody was there to decide: %v", o.verdict)
			during++
		case o.begun.After(recovered):
			after++
		}
	}
	t.Logf("Mixer %s: %d requests before the kill, %d during the outage, %d errors in all, back %v after the start, %d requests since",
		s.mixer.Version, before, during, between, recovered.Sub(starting).Round(time.Millisecond), after)
	assert.Positive(t, before)
	assert.Positive(t, during)
	assert.Positive(t, after)
}

// running says whether nobody closed the channel yet.
func running(load <-chan struct{}) bool {
	select {
	case <-load:
		return false
	default:
		return true
	}
}
