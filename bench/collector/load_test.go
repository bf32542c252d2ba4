package collector

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
)

const (
	connections = 4
	// callersEach is how many calls are under way at once on a connection, where they follow each other as fast as answers come.
	callersEach = 4
	// pace is what is sent a second in the other mode, in records.
	pace = 20_000
	// callTimeout bounds a call that hangs.
	callTimeout = 30 * time.Second
)

// load sends the same calls again and again.
type load struct {
	method      string
	calls       [][]byte
	connections []*grpc.ClientConn
}

func newLoad(t *testing.T, address, method string, calls [][]byte) *load {
	t.Helper()
	l := &load{method: method, calls: calls}
	for range connections {
		connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		t.Cleanup(func() { connection.Close() })
		l.connections = append(l.connections, connection)
	}
	return l
}

// send makes a call and returns how long the answer took.
func (l *load) send(n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var reply []byte
	begin := time.Now()
	err := l.connections[n%len(l.connections)].Invoke(ctx, l.method, l.calls[n%len(l.calls)], &reply, grpc.ForceCodecV2(mixertest.Raw{}))
	return time.Since(begin), err
}

// flatOut makes n calls as fast as answers come, and returns how long the answers took, in order of length.
func (l *load) flatOut(n int) ([]time.Duration, error) {
	answers := make([]time.Duration, n)
	errs := make([]error, connections*callersEach)
	var next atomic.Int64
	var callers sync.WaitGroup
	for caller := range errs {
		callers.Go(func() {
			for call := int(next.Add(1)) - 1; call < n && errs[caller] == nil; call = int(next.Add(1)) - 1 {
				answers[call], errs[caller] = l.send(call)
			}
		})
	}
	callers.Wait()
	slices.Sort(answers)
	return answers, errors.Join(errs...)
}

// paced makes n calls at a fixed pace: a slow answer holds up no later call.
func (l *load) paced(n int) ([]time.Duration, error) {
	answers, errs := make([]time.Duration, n), make([]error, n)
	var calls sync.WaitGroup
	begin := time.Now()
	for call := range n {
		time.Sleep(time.Until(begin.Add(time.Duration(call) * time.Second * perCall / pace)))
		calls.Go(func() { answers[call], errs[call] = l.send(call) })
	}
	calls.Wait()
	slices.Sort(answers)
	return answers, errors.Join(errs...)
}
