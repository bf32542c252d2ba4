package otlp

import (
	"slices"
	"testing"
	"time"

	logsservice "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	metricsservice "go.opentelemetry.io/proto/slim/otlp/collector/metrics/v1"
	traceservice "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// FuzzEncode holds the mapping to this: whatever was accepted is sent or refused, each record once; what is sent can be marshaled;
// no attribute has the name of another; and log records and spans carry their records' ids.
func FuzzEncode(f *testing.F) {
	for kind, list := range samples() {
		for _, s := range list {
			f.Add(uint8(kind), s.raw, s.raw, string(s.delivery.Append(nil)))
		}
	}
	e := newEncoding(nil)
	f.Fuzz(func(t *testing.T, kind uint8, first, second, delivery string) {
		d, err := record.ParseDelivery(delivery)
		if err != nil || record.Check(record.Kind(kind), first) != nil || record.Check(record.Kind(kind), second) != nil {
			t.Skip()
		}
		var batch []record.Record
		for i, raw := range []string{first, second, first} {
			batch = append(batch, record.Record{Kind: record.Kind(kind), Sequence: 1, Index: i, Arrived: time.Unix(noon, 0), Delivery: d, Raw: raw})
		}
		signal, known := signalOf(record.Kind(kind))
		require.True(t, known)
		var refused refusals
		r := e.encode(t.Context(), signal, batch, []int{0, 1, 2}, &refused)
		all := append(slices.Clone(r.records), refused.records...)
		slices.Sort(all)
		require.Equal(t, []int{0, 1, 2}, all)
		_, err = proto.Marshal(r.message)
		require.NoError(t, err)
		switch m := r.message.(type) {
		case *logsservice.ExportLogsServiceRequest:
			list := m.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords()
			require.Len(t, list, len(r.records))
			for i, l := range list {
				requireRecord(t, &batch[r.records[i]], l.GetAttributes())
			}
		case *traceservice.ExportTraceServiceRequest:
			list := m.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()
			require.Len(t, list, len(r.records))
			for i, s := range list {
				requireRecord(t, &batch[r.records[i]], s.GetAttributes())
				require.LessOrEqual(t, s.GetStartTimeUnixNano(), s.GetEndTimeUnixNano())
			}
		case *metricsservice.ExportMetricsServiceRequest:
			points := 0
			for _, m := range m.GetResourceMetrics()[0].GetScopeMetrics()[0].GetMetrics() {
				for _, p := range append(m.GetSum().GetDataPoints(), m.GetGauge().GetDataPoints()...) {
					points++
					requireUnique(t, p.GetAttributes())
				}
				for _, p := range m.GetHistogram().GetDataPoints() {
					points++
					requireUnique(t, p.GetAttributes())
					var count uint64
					for _, n := range p.GetBucketCounts() {
						count += n
					}
					require.Equal(t, p.GetCount(), count)
				}
			}
			require.Equal(t, r.items, points)
			require.Equal(t, len(r.records) == 0, points == 0)
		}
	})
}

func requireRecord(t *testing.T, r *record.Record, list []*commonpb.KeyValue) {
	t.Helper()
	requireUnique(t, list)
	require.Equal(t, attrRecord, list[0].GetKey())
	require.Equal(t, r.ID(), list[0].GetValue().GetStringValue())
}

func requireUnique(t *testing.T, list []*commonpb.KeyValue) {
	t.Helper()
	names := map[string]struct{}{}
	for _, pair := range list {
		names[pair.GetKey()] = struct{}{}
	}
	require.Len(t, names, len(list))
}
