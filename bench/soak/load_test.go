package soak

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
)

// callTimeout is the longest that an answer may take. It is shorter than settled: no call is under way with a value from before.
const callTimeout = 5 * time.Second

// paced calls do so often a second until ctx is done, however long it takes, and returns when all have ended. What a machine that stood
// still made it miss is left out.
func paced(ctx context.Context, perSecond int, do func(n int)) {
	var all sync.WaitGroup
	defer all.Wait()
	next := time.Now()
	for n := 0; pause(ctx, time.Until(next)); n++ {
		all.Go(func() { do(n) })
		if next = next.Add(time.Second / time.Duration(perSecond)); time.Since(next) > stall {
			next = time.Now()
		}
	}
}

// stall is how long this process may get no processor, disk or clock before the machine counts as standing still. Calls then have no answer
// in time through no fault of the server.
const stall = time.Second

// stalls are the times when the machine stood still.
type stalls struct {
	mu    sync.Mutex // guards what follows
	times []span
}

type span struct{ from, to time.Time }

// watch finds them until ctx is done.
func (s *stalls) watch(ctx context.Context) {
	for last := time.Now(); pause(ctx, stall/10); last = time.Now() {
		if now := time.Now(); now.Sub(last) > stall {
			s.mu.Lock()
			s.times = append(s.times, span{last, now})
			s.mu.Unlock()
		}
	}
}

// during reports whether the machine stood still in that time or shortly before it.
func (s *stalls) during(a span) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.times, func(b span) bool { return a.from.Before(b.to.Add(stall)) && a.to.After(b.from) })
}

// total returns how many there were, and how long they lasted together.
func (s *stalls) total() (n int, long time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.times {
		long += a.to.Sub(a.from)
	}
	return len(s.times), long
}

// tally is what became of calls.
type tally struct {
	mu        sync.Mutex // guards what follows
	ok, wrong int
	failed    []span        // when they were under way
	slowest   time.Duration // since it was last asked for
	took      []time.Duration
	mistakes  []string // the first of them
}

// add counts a call. It failed where it got no answer, or one that only failures get; it is wrong where it got another than it must.
func (y *tally) add(about string, got, want codes.Code, err error, begin time.Time) {
	took := time.Since(begin)
	y.mu.Lock()
	defer y.mu.Unlock()
	y.took, y.slowest = append(y.took, took), max(y.slowest, took)
	switch {
	case err == nil && got == want:
		y.ok++
		return
	case err != nil || got == codes.Unavailable:
		y.failed = append(y.failed, span{begin, begin.Add(took)})
	default:
		y.wrong++
	}
	const enough = 20
	if len(y.mistakes) < enough {
		y.mistakes = append(y.mistakes, fmt.Sprintf("%s %s: got %s, want %s, error %v, after %s", time.Now().Format(time.TimeOnly), about, got, want, err, took.Round(time.Millisecond)))
	}
}

// second returns the counts, and the slowest call since the last time.
func (y *tally) second() (ok, failed, wrong int, slowest time.Duration) {
	y.mu.Lock()
	defer y.mu.Unlock()
	slowest, y.slowest = y.slowest, 0
	return y.ok, len(y.failed), y.wrong, slowest
}

// excused returns how many calls failed because the machine stood still.
func (y *tally) excused(s *stalls) (n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, call := range y.failed {
		if s.during(call) {
			n++
		}
	}
	return n
}

// quantile returns the time that this share of the calls did not exceed.
func (y *tally) quantile(share float64) time.Duration {
	y.mu.Lock()
	defer y.mu.Unlock()
	if len(y.took) == 0 {
		return 0
	}
	slices.Sort(y.took)
	return y.took[min(int(share*float64(len(y.took))), len(y.took)-1)]
}

// callers are clients of one Tollgate.
type callers struct {
	address      string
	certificates *certificates
	bearer       *rotation
	questions    []func(n int) check
	steady       []*grpc.ClientConn

	checks, reports tally
	reported        reported
}

// bearer is a credential that is sent with every call.
type bearer func() string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b()}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

func (c *callers) connect(options ...grpc.DialOption) (*grpc.ClientConn, error) {
	mutual := len(options) == 0
	return grpc.NewClient(c.address, append(options, grpc.WithTransportCredentials(credentials.NewTLS(c.certificates.configuration(mutual))))...)
}

// begin opens the connections that stay. Half of them show a certificate, half send a token.
func (c *callers) begin(t *testing.T) {
	t.Helper()
	for range 2 {
		mutual, err := c.connect()
		require.NoError(t, err)
		withToken, err := c.connect(grpc.WithPerRPCCredentials(bearer(c.bearer.good)))
		require.NoError(t, err)
		c.steady = append(c.steady, mutual, withToken)
	}
}

func (c *callers) end() {
	for _, connection := range c.steady {
		connection.Close()
	}
	c.steady = nil
}

// check makes the nth check.
func (c *callers) check(n int) {
	c.ask(c.steady[n%len(c.steady)], n)
}

func (c *callers) ask(connection grpc.ClientConnInterface, n int, options ...grpc.CallOption) {
	check := c.questions[n%len(c.questions)](n / len(c.questions))
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	begin, code := time.Now(), codes.OK
	result, err := mixertest.SendCheck(ctx, connection, check.method, check.call, options...)
	if err == nil {
		code = codes.Code(result.Status.Code)
	}
	if check.want == codes.Unavailable && err == nil && code == check.want { // expected of this one
		check.want, code = codes.OK, codes.OK
	}
	c.checks.add(check.about, code, check.want, err, begin)
}

// report makes the nth report call.
func (c *callers) report(n int) {
	numbers := c.reported.numbers()
	method, call := report(n, numbers)
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	begin := time.Now()
	err := mixertest.SendReport(ctx, c.steady[n%len(c.steady)], method, call)
	if err == nil {
		c.reported.acknowledge(numbers)
	}
	c.reports.add("report", codes.OK, codes.OK, err, begin)
}

// visit comes with a connection of its own, makes some calls, and goes.
func (c *callers) visit(n int) {
	var (
		connection *grpc.ClientConn
		err        error
		begin      = time.Now()
	)
	switch n % 4 {
	case 0, 1:
		connection, err = c.connect()
	case 2:
		connection, err = c.connect(grpc.WithPerRPCCredentials(bearer(c.bearer.good)))
	default:
		connection, err = c.connect(grpc.WithPerRPCCredentials(bearer(c.bearer.bad)))
	}
	if err != nil {
		c.checks.add("connect", codes.Unknown, codes.OK, err, begin)
		return
	}
	defer connection.Close()
	switch n % 4 {
	case 0:
		c.watch(connection)
	case 1, 2:
		var server peer.Peer
		for i := range 3 {
			c.ask(connection, n+i, grpc.Peer(&server))
		}
		if info, ok := server.AuthInfo.(credentials.TLSInfo); ok && !c.certificates.current(info.State.PeerCertificates[0]) {
			c.checks.add("certificate that was replaced", codes.Unknown, codes.OK, nil, begin)
		}
	default:
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		// A caller without a right credential gets an error, and nothing else.
		_, err := mixertest.Send(ctx, connection, nil)
		if status.Code(err) == codes.Unauthenticated {
			err = nil
		} else {
			err = errors.Join(errors.New("a caller with an old token was not refused"), err)
		}
		c.checks.add("old token", codes.OK, codes.OK, err, begin)
	}
}

// watch watches the service's health, and leaves without a word.
func (c *callers) watch(connection *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	begin := time.Now()
	stream, err := healthpb.NewHealthClient(connection).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	c.checks.add("watch", codes.OK, codes.OK, err, begin)
}
