package promsink

import (
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The wire, written by hand.

func nested(number protowire.Number, parts ...string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), strings.Join(parts, "")))
}

func number(field protowire.Number, v uint64) string {
	return string(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), v))
}

func text(v string) string   { return nested(1, v) }
func integer(v int64) string { return number(2, uint64(v)) }
func double(v float64) string {
	return string(protowire.AppendFixed64(protowire.AppendTag(nil, 3, protowire.Fixed64Type), math.Float64bits(v)))
}
func boolean(v bool) string { return number(4, protowire.EncodeBool(v)) }
func ip(raw string) string  { return nested(5, nested(1, raw)) }
func instant(seconds, nanos int64) string {
	return nested(6, nested(1, number(1, uint64(seconds)), number(2, uint64(nanos))))
}

func duration(seconds, nanos int64) string {
	return nested(7, nested(1, number(1, uint64(seconds)), number(2, uint64(nanos))))
}

// dimension is a name and a value of the wire.
func dimension(name string, value ...string) string {
	return nested(2, nested(1, name), nested(2, value...))
}

// instance is a metric of the given name, value and dimensions.
func instance(name, value string, dimensions ...string) string {
	return nested(1, value) + strings.Join(dimensions, "") + nested(72295727, name)
}

// requests counts one request.
func requests(dimensions ...string) string {
	return instance("requestcount.instance.istio-system", integer(1), dimensions...)
}

// fakeClock is moved by hand.
type fakeClock struct{ now time.Time }

func newSink(tb testing.TB, o Options) (*Sink, *fakeClock) {
	tb.Helper()
	s, err := New(o, slog.New(slog.DiscardHandler))
	require.NoError(tb, err)
	clock := &fakeClock{now: time.Unix(1795262400, 0)}
	s.now = func() time.Time { return clock.now }
	return s, clock
}

// batch makes records of a handler with the given rules.
func batch(rules []record.MetricRule, raws ...string) []record.Record {
	delivery := &record.Delivery{Metrics: rules}
	records := make([]record.Record, len(raws))
	for i, raw := range raws {
		records[i] = record.Record{Sequence: 7, Index: i, Kind: record.KindMetric, Handler: "bookinfo", Delivery: delivery, Raw: raw}
	}
	return records
}

// deliver expects all records to be taken.
func deliver(tb testing.TB, s *Sink, rules []record.MetricRule, raws ...string) {
	tb.Helper()
	for _, raw := range raws {
		require.NoError(tb, record.Check(record.KindMetric, raw))
	}
	require.NoError(tb, s.Deliver(tb.Context(), batch(rules, raws...)))
}

// page is what Prometheus would scrape, from a registry that checks all it can.
func page(tb testing.TB, s *Sink) string {
	tb.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(tb, registry.Register(s))
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(tb, http.StatusOK, answer.Code, answer.Body.String())
	return answer.Body.String()
}

// samples is the page without comments.
func samples(tb testing.TB, s *Sink) (lines []string) {
	tb.Helper()
	for line := range strings.Lines(page(tb, s)) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}
