package reports

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gogo/protobuf/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/logentry"
)

// TestLatency measures and says how long it takes until a call is accepted, at 20 000 records a second, with and without waiting for
// the disk, and what a record costs from gRPC to the file. It asserts nothing about either: machines differ.
func TestLatency(t *testing.T) {
	const (
		perSecond = 200 // calls
		entries   = 100 // in each
		clients   = 4
	)
	long := duration(t, latencyEnv, 3*time.Second)
	medians := map[string]time.Duration{}
	for _, sync := range []string{"os", "always"} {
		directory := t.TempDir()
		// Nobody is refused where the process, or the disk, pauses and all calls of that time come at once.
		s := startServer(t, fmt.Sprintf(`
limits: {reports: {calls: 1000000, bytes: 1073741824}}
reports:
  directory: %q
  sinks:
    records:
      file: {path: %q}
      queue: {sync: %s}
`, filepath.Join(directory, "spool"), filepath.Join(directory, "records.jsonl"), sync))
		var connections []*grpc.ClientConn
		for range clients {
			connections = append(connections, s.connect(t))
		}
		call := accessLog(entries)
		for _, c := range connections { // that they are connected and the handler is known
			require.NoError(t, mixertest.SendReport(t.Context(), c, mixertest.LogEntryMethod, call, grpc.WaitForReady(true)))
		}
		s.awaitDelivered(t, "records")
		before := s.processor(t)
		took := openLoop(t, connections, call, perSecond, int(long.Seconds()*perSecond))
		s.awaitDelivered(t, "records")
		used := s.processor(t) - before
		slices.Sort(took)
		medians[sync] = percentile(took, 50)
		t.Logf("sync %-6s: %d calls of %d entries at %d calls/s: accepted after p50 %s, p90 %s, p99 %s, most %s; %s of processor time a record from gRPC to the file",
			sync, len(took), entries, perSecond, medians[sync], percentile(took, 90), percentile(took, 99), took[len(took)-1].Round(10*time.Microsecond),
			(used / time.Duration(len(took)*entries)).Round(10*time.Nanosecond))
		s.terminate(t)
	}
	t.Logf("the share of fsync in the median is %.0f %%", 100*(1-float64(medians["os"])/float64(medians["always"])))
}

// openLoop makes calls at a steady pace, whether or not the earlier ones were answered, and returns how long each took.
func openLoop(t *testing.T, connections []*grpc.ClientConn, call []byte, perSecond, count int) []time.Duration {
	t.Helper()
	took := make([]time.Duration, count)
	var under sync.WaitGroup
	ticker := time.NewTicker(time.Second / time.Duration(perSecond))
	defer ticker.Stop()
	for i := range took {
		<-ticker.C
		under.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
			defer cancel()
			begin := time.Now()
			err := mixertest.SendReport(ctx, connections[i%len(connections)], mixertest.LogEntryMethod, call)
			took[i] = time.Since(begin)
			assert.NoError(t, err)
		})
	}
	under.Wait()
	return took
}

// accessLog is the bytes of a call of log entries with the twelve variables that an access log usually has.
func accessLog(entries int) []byte {
	text := mixertest.Text
	noon := &policyv1beta1.TimeStamp{Value: &types.Timestamp{Seconds: 1605960000, Nanos: 123456789}}
	entry := &logentry.InstanceMsg{
		Name: "accesslog.instance.istio-system", Severity: "info", Timestamp: noon, MonitoredResourceType: "global",
		Variables: map[string]*policyv1beta1.Value{
			"destinationService": text("productpage.default.svc.cluster.local"),
			"latency":            {Value: &policyv1beta1.Value_DurationValue{DurationValue: &policyv1beta1.Duration{Value: &types.Duration{Nanos: 23456000}}}},
			"method":             text("GET"),
			"mtls":               {Value: &policyv1beta1.Value_BoolValue{BoolValue: true}},
			"protocol":           text("http"),
			"receivedAt":         {Value: &policyv1beta1.Value_TimestampValue{TimestampValue: noon}},
			"responseCode":       {Value: &policyv1beta1.Value_Int64Value{Int64Value: 200}},
			"responseSize":       {Value: &policyv1beta1.Value_Int64Value{Int64Value: 4183}},
			"sourceIp":           {Value: &policyv1beta1.Value_IpAddressValue{IpAddressValue: &policyv1beta1.IPAddress{Value: []byte{10, 0, 0, 1}}}},
			"url":                text("/productpage?q=1"),
			"user":               text("cluster.local/ns/default/sa/bookinfo-gateway"),
			"userAgent":          text("Mozilla/5.0 (X11; Linux x86_64)"),
		},
	}
	instances := make([]*logentry.InstanceMsg, entries)
	for i := range instances {
		instances[i] = entry
	}
	return mixertest.LogEntries(mixertest.Params(&configpb.Params{Name: "bookinfo"}), instances...)
}
