package outage

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/logentry"
)

const (
	perCall = 50 // records
	pause   = 50 * time.Millisecond
	// padding makes a record about as large as a line of an access log.
	padding = 300
)

// load reports records to the handler of one sink, at a fixed pace. Each record has a number of its own.
type load struct {
	handler      string
	stop         context.CancelFunc
	ended        sync.WaitGroup
	acknowledged map[string]bool // numbers of records; not to be read before the end
	slowest      time.Duration   // of answers
}

// report begins a load for one sink. Whatever is refused fails the test.
func report(t *testing.T, address, sink string) *load {
	t.Helper()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	l := &load{handler: "to-" + sink, stop: stop, acknowledged: map[string]bool{}}
	params := mixertest.Params(&configpb.Params{Name: l.handler, Report: &configpb.Report{Sinks: []string{sink}}})
	l.ended.Go(func() {
		defer connection.Close()
		ticker := time.NewTicker(pause)
		defer ticker.Stop()
		for call := 0; ctx.Err() == nil; call++ {
			l.call(context.WithoutCancel(ctx), t, connection, params, call)
			<-ticker.C
		}
	})
	t.Cleanup(l.end)
	return l
}

// call makes a call, which the end of the load does not cut off.
func (l *load) call(ctx context.Context, t *testing.T, connection *grpc.ClientConn, params []byte, call int) {
	t.Helper()
	instances, numbers := make([]*logentry.InstanceMsg, perCall), make([]string, perCall)
	for i := range instances {
		numbers[i] = fmt.Sprintf("%s/%d", l.handler, call*perCall+i)
		instances[i] = mixertest.LogEntry(map[string]string{"number": numbers[i], "padding": strings.Repeat("x", padding)})
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	begin := time.Now()
	if assert.NoError(t, mixertest.SendReport(ctx, connection, mixertest.LogEntryMethod, mixertest.LogEntries(params, instances...))) {
		l.slowest = max(l.slowest, time.Since(begin))
		for _, number := range numbers {
			l.acknowledged[number] = true
		}
	}
}

// end ends the load after the call under way.
func (l *load) end() {
	l.stop()
	l.ended.Wait()
}

// compare compares what was acknowledged with what arrived where, and returns how many records came more than once. A record that
// comes again has the id it had before.
func (l *load) compare(t *testing.T, read func(*testing.T, func(id, number string))) (duplicates int) {
	t.Helper()
	ids := map[string]string{}
	read(t, func(id, number string) {
		before, again := ids[number]
		if again {
			duplicates++
			require.Equal(t, before, id, "%s came under two ids", number)
		}
		require.NotEmpty(t, id)
		ids[number] = id
	})
	for number := range l.acknowledged {
		require.NotEmpty(t, ids[number], "%s was acknowledged and is lost", number)
	}
	require.Len(t, ids, len(l.acknowledged), "there is more than was sent")
	return duplicates
}
