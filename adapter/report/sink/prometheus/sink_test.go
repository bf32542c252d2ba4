package promsink

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// istio is what an operator who comes from Mixer's built-in adapter configures.
var istio = []record.MetricRule{
	{Instance: "requestcount", Name: "istio_requests_total", Kind: record.MetricCounter, Unit: "1", Description: "Requests, by who sent them\nand \\ how they ended."},
	{Instance: "requestduration", Kind: record.MetricHistogram, Unit: "s", Bounds: []float64{0.01, 0.1, 1}},
	{Instance: "connections", Kind: record.MetricGauge, Description: "Open connections."},
}

func deliverIstio(tb testing.TB, s *Sink) {
	tb.Helper()
	const duration1, duration2, connections = "requestduration.instance.a", "requestduration.instance.b", "connections.instance.a"
	deliver(tb, s, istio,
		requests(dimension("code", integer(200)), dimension("destination.name", text("productpage"))),
		requests(dimension("destination.name", text("productpage")), dimension("code", text("200"))),
		requests(dimension("code", integer(503)), dimension("destination.name", text("reviews"))),
		instance(duration1, duration(0, 10_000_000)), instance(duration2, duration(0, 50_000_000)), instance(duration1, duration(3, 0)),
		instance(connections, integer(7)), instance(connections, integer(-3)))
}

const istioPage = `# HELP connections Open connections.
# TYPE connections gauge
connections -3
# HELP istio_requests_total Requests, by who sent them\nand \\ how they ended.
# TYPE istio_requests_total counter
istio_requests_total{code="200",destination_name="productpage"} 2
istio_requests_total{code="503",destination_name="reviews"} 1
# HELP requestduration_seconds What Mixer reports as requestduration.instance.a.
# TYPE requestduration_seconds histogram
requestduration_seconds_bucket{le="0.01"} 1
requestduration_seconds_bucket{le="0.1"} 2
requestduration_seconds_bucket{le="1"} 2
requestduration_seconds_bucket{le="+Inf"} 3
requestduration_seconds_sum 3.06
requestduration_seconds_count 3
`

func TestExposition(t *testing.T) {
	s, _ := newSink(t, Options{})
	deliverIstio(t, s)
	assert.Equal(t, istioPage, page(t, s))
	problems, err := promlint.New(strings.NewReader(page(t, s))).Lint()
	require.NoError(t, err)
	assert.Empty(t, problems)
	assert.Equal(t, 4, s.Series())
	assert.Zero(t, s.Overflowed())
}

// Beside the process's own metrics, on one page.
func TestExpositionInASharedRegistry(t *testing.T) {
	s, _ := newSink(t, Options{})
	deliverIstio(t, s)
	registry := prometheus.NewRegistry()
	own := prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_own_total", Help: "Its own."})
	registry.MustRegister(own, s)
	require.NoError(t, s.Deliver(t.Context(), batch(nil, instance("other", integer(1)))))
	err := s.Deliver(t.Context(), batch(nil, instance("tollgate_own", integer(1))))
	require.ErrorContains(t, err, `metric "tollgate_own_total" has a name like those of Tollgate's own`)
	families, err := registry.Gather()
	require.NoError(t, err)
	assert.Len(t, families, 5)
}

func TestCreatedTimestamps(t *testing.T) {
	s, clock := newSink(t, Options{})
	deliverIstio(t, s)
	began := clock.now
	clock.now = clock.now.Add(time.Minute)
	deliverIstio(t, s)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	require.NoError(t, err)
	seen := 0
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if c := m.GetCounter(); c != nil {
				assert.Equal(t, began.UTC(), c.GetCreatedTimestamp().AsTime())
				seen++
			}
			if h := m.GetHistogram(); h != nil {
				assert.Equal(t, began.UTC(), h.GetCreatedTimestamp().AsTime())
				seen++
			}
		}
	}
	assert.Equal(t, 3, seen)
}

func TestTakesMetricsOnly(t *testing.T) {
	s, _ := newSink(t, Options{})
	for _, kind := range record.Kinds() {
		assert.Equal(t, kind == record.KindMetric, s.Takes(kind), kind)
	}
}

// Whatever is wrong with a record is the end of that record alone, and is not counted.
func TestRefusals(t *testing.T) {
	many := make([]string, maxLabels+1)
	for i := range many {
		many[i] = dimension(strconv.Itoa(i), integer(1))
	}
	rules := append([]record.MetricRule{
		{Instance: "long", Name: strings.Repeat("n", maxNameBytes+1)},
		{Instance: "unsorted", Kind: record.MetricHistogram, Bounds: []float64{1, 1}},
		{Instance: "nan", Kind: record.MetricHistogram, Bounds: []float64{math.NaN()}},
		{Instance: "bounds", Kind: record.MetricHistogram, Bounds: make([]float64, maxBounds+1)},
		{Instance: "own", Name: "go_goroutines"},
		{Instance: "other", Name: "istio_requests_total", Kind: record.MetricGauge},
		{Instance: "bucket", Name: "requestduration_seconds_count", Kind: record.MetricCounter},
	}, istio...)
	for want, raw := range map[string]string{
		"malformed":                            "\x0a",
		"the metric has no value":              nested(72295727, "requestcount"),
		"no number but a string":               instance("requestcount", text("1")),
		"no number but a bool":                 instance("requestcount", boolean(true)),
		"not finite":                           instance("requestcount", double(math.Inf(1))),
		"the value of a counter is negative":   instance("requestcount", integer(-1)),
		"the metric has no name":               instance("", integer(1)),
		"name has 301 bytes; use at most 300":  instance("long", integer(1)),
		"there are 65 dimensions; at most 64":  requests(many...),
		"the labels have 8195 bytes; at most":  requests(dimension("a", text(strings.Repeat("v", maxLabelBytes)))),
		"bound 1 is 1; write finite bounds":    instance("unsorted", integer(1)),
		"bound 0 is NaN; write finite bounds":  instance("nan", integer(1)),
		"there are 101 bounds; use at most":    instance("bounds", integer(1)),
		"has a name like those of Tollgate's":  instance("own", integer(1)),
		`"istio_requests_total" is a counter `: instance("other", integer(1)),
		`would both have samples called "req`:  instance("bucket", integer(1)),
	} {
		t.Run(want, func(t *testing.T) {
			s, _ := newSink(t, Options{})
			deliverIstio(t, s)
			before := samples(t, s)
			good := requests(dimension("code", integer(404)))
			err := s.Deliver(t.Context(), batch(rules, raw, good, raw))
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, "record 00000000000000000000000000000000-7-0: ")
			u, ok := errors.AsType[*report.Undelivered](err)
			require.True(t, ok)
			assert.True(t, u.Permanent)
			assert.Equal(t, []int{0, 2}, u.Records)
			assert.Less(t, len(err.Error()), 600)
			assert.ElementsMatch(t, append(before, `istio_requests_total{code="404"} 1`), samples(t, s))
		})
	}
	t.Run("of another kind", func(t *testing.T) {
		s, _ := newSink(t, Options{})
		records := batch(nil, nested(1))
		records[0].Kind = record.KindEdge
		require.ErrorContains(t, s.Deliver(t.Context(), records), "a edge is no metric")
	})
}

// Dead letters are read by people who may not see what was reported.
func TestErrorsTellNoValues(t *testing.T) {
	s, _ := newSink(t, Options{})
	err := s.Deliver(t.Context(), batch(istio,
		instance("requestcount", text("planted"), dimension("user", text("planted"))),
		instance("requestcount", integer(-4711), dimension("user", text("planted")))))
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "planted")
	assert.NotContains(t, err.Error(), "4711")
}

// The first record of a name says what the metric is.
func TestFirstDefinitionWins(t *testing.T) {
	s, _ := newSink(t, Options{})
	rule := record.MetricRule{Instance: "m", Kind: record.MetricHistogram, Bounds: []float64{1}, Description: "First."}
	deliver(t, s, []record.MetricRule{rule}, instance("m", integer(1)))
	rule.Bounds, rule.Description = []float64{2}, "Second."
	deliver(t, s, []record.MetricRule{rule}, instance("m", integer(2)))
	assert.Equal(t, "# HELP m First.\n# TYPE m histogram\nm_bucket{le=\"1\"} 1\nm_bucket{le=\"+Inf\"} 2\nm_sum 3\nm_count 2\n", page(t, s))

	rule.Kind, rule.Instance, rule.Name = record.MetricCounter, "n", "m"
	err := s.Deliver(t.Context(), batch([]record.MetricRule{rule}, instance("n", integer(2))))
	require.ErrorContains(t, err, `metric "m" is a histogram since instance "m" reported it, and instance "n" makes it a counter; give one of them another name`)
}

// Whichever of two metrics with a sample's name in common comes second is refused.
func TestNamesOfSamplesAreTakenToo(t *testing.T) {
	histogram := record.MetricRule{Instance: "h", Name: "h", Kind: record.MetricHistogram}
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		other := record.MetricRule{Instance: "c", Name: "h" + suffix, Kind: record.MetricCounter}
		for _, order := range [][]string{{"h", "c"}, {"c", "h"}} {
			s, _ := newSink(t, Options{})
			rules := []record.MetricRule{histogram, other}
			deliver(t, s, rules, instance(order[0], integer(1)))
			err := s.Deliver(t.Context(), batch(rules, instance(order[1], integer(1))))
			require.ErrorContains(t, err, `would both have samples called "h`+suffix+`"`)
			page(t, s)
		}
	}
}

// Batches under way at once may pass each other; a gauge shows what was accepted last.
func TestGaugeShowsTheLatest(t *testing.T) {
	s, _ := newSink(t, Options{})
	records := batch(istio, instance("connections", integer(1)), instance("connections", integer(2)), instance("connections", integer(3)))
	records[0].Sequence, records[1].Sequence = 9, 9
	for _, order := range [][]int{{0, 1, 2}, {1, 0, 2}, {2, 1, 0}} {
		for _, i := range order {
			require.NoError(t, s.Deliver(t.Context(), records[i:i+1]))
		}
		assert.Equal(t, []string{"connections 2"}, samples(t, s))
	}
}

func TestDeliverCountsNothingWhenItIsTooLate(t *testing.T) {
	s, _ := newSink(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Deliver(ctx, batch(istio, requests())), context.Canceled)
	assert.Zero(t, s.Series())
}

// What was delivered stays to be scraped.
func TestCloseKeepsTheSeries(t *testing.T) {
	s, _ := newSink(t, Options{})
	deliverIstio(t, s)
	require.NoError(t, s.Close(t.Context()))
	assert.Equal(t, istioPage, page(t, s))
}

func TestExpiry(t *testing.T) {
	s, clock := newSink(t, Options{})
	a, b := requests(dimension("k", text("a"))), requests(dimension("k", text("b")))
	deliver(t, s, nil, a, b)
	clock.now = clock.now.Add(defaultIdle - 1)
	deliver(t, s, nil, b)
	assert.Len(t, samples(t, s), 2)
	clock.now = clock.now.Add(1)
	assert.Equal(t, []string{`requestcount_total{k="b"} 2`}, samples(t, s))
	deliver(t, s, nil, a)
	assert.Equal(t, []string{`requestcount_total{k="a"} 1`, `requestcount_total{k="b"} 2`}, samples(t, s), "a series that comes back begins anew")

	// Without series a metric may become another.
	clock.now = clock.now.Add(defaultIdle)
	assert.Empty(t, samples(t, s))
	deliver(t, s, []record.MetricRule{{Instance: "requestcount", Name: "requestcount_total", Kind: record.MetricHistogram, Bounds: []float64{1}}}, a)
	assert.Contains(t, page(t, s), "# TYPE requestcount_total histogram\n")
	clock.now = clock.now.Add(defaultIdle)
	assert.Empty(t, samples(t, s))
	deliver(t, s, []record.MetricRule{{Instance: "requestcount", Name: "requestcount_total_sum"}}, a)
}

// Nobody needs to scrape for series to be forgotten.
func TestExpiryWithoutScrapes(t *testing.T) {
	s, clock := newSink(t, Options{IdleExpiry: time.Minute})
	deliver(t, s, nil, requests(dimension("k", text("a"))))
	clock.now = clock.now.Add(time.Minute)
	deliver(t, s, nil, requests(dimension("k", text("b"))))
	assert.Equal(t, 1, s.Series())
}

func TestOverflow(t *testing.T) {
	const extra = 50
	s, clock := newSink(t, Options{MaxSeries: minSeries})
	for i := range minSeries + extra {
		deliver(t, s, istio, requests(dimension("id", integer(int64(i))), dimension("code", text("200"))))
	}
	lines := samples(t, s)
	assert.Len(t, lines, minSeries+1)
	assert.Contains(t, lines, `istio_requests_total{code="overflow",id="overflow"} 50`)
	assert.EqualValues(t, extra, s.Overflowed())
	assert.Equal(t, minSeries+1, s.Series())

	// Series that are there go on, the metric's overflow is one whatever the labels, and every metric has its own.
	deliver(t, s, istio, requests(dimension("id", integer(0)), dimension("code", text("200"))), requests(dimension("new", text("a"))), instance("requestduration", integer(2)))
	lines = samples(t, s)
	assert.Contains(t, lines, `istio_requests_total{code="200",id="0"} 2`)
	assert.Contains(t, lines, `istio_requests_total{code="overflow",id="overflow"} 51`)
	assert.Contains(t, lines, `requestduration_seconds_sum{overflow="overflow"} 2`)

	// The last value of many is nobody's.
	err := s.Deliver(t.Context(), batch(istio, instance("connections", integer(1))))
	require.ErrorContains(t, err, `metric "connections": there are as many series as max_series allows`)
	u, ok := errors.AsType[*report.Undelivered](err)
	require.True(t, ok)
	assert.True(t, u.Permanent)
	assert.EqualValues(t, extra+3, s.Overflowed())

	// When the old ones are gone there is room again, also for labels that look like the overflow's.
	clock.now = clock.now.Add(defaultIdle)
	deliver(t, s, istio, instance("connections", integer(1)), requests(dimension("id", text("overflow"))))
	assert.Equal(t, []string{"connections 1", `istio_requests_total{id="overflow"} 1`}, samples(t, s))
}

func TestMetricNamesAreBoundedToo(t *testing.T) {
	s, _ := newSink(t, Options{})
	for i := range maxMetrics {
		deliver(t, s, nil, instance("m"+strconv.Itoa(i), integer(1)))
	}
	require.ErrorContains(t, s.Deliver(t.Context(), batch(nil, instance("n", integer(1)))), `metric "n_total" is one too many: at most 1000`)
}

// A histogram's buckets, sum and count are of one moment, and nothing is lost.
func TestConcurrentDeliverAndCollect(t *testing.T) {
	s, err := New(Options{MaxSeries: minSeries}, nil)
	require.NoError(t, err)
	s.full.Do(func() {}) // the log
	const writers, batches, each = 4, 100, 25
	var writing, reading sync.WaitGroup
	stop := make(chan struct{})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	for range 2 {
		reading.Go(func() {
			for {
				families, err := registry.Gather()
				if err != nil {
					t.Error(err)
					return
				}
				for _, family := range families {
					for _, m := range family.GetMetric() {
						if h := m.GetHistogram(); h != nil {
							assert.InDelta(t, h.GetSampleCount(), h.GetSampleSum(), 0, "every value is 1")
							assert.Equal(t, h.GetSampleCount(), h.GetBucket()[1].GetCumulativeCount())
							assert.Zero(t, h.GetBucket()[0].GetCumulativeCount())
						}
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	rules := []record.MetricRule{{Instance: "h", Kind: record.MetricHistogram, Bounds: []float64{0.5, 1}}}
	for w := range writers {
		writing.Go(func() {
			for i := range batches {
				raws := make([]string, 0, 2*each)
				for j := range each {
					raws = append(raws, instance("h", integer(1), dimension("k", integer(int64(j%3)))), requests(dimension("w", integer(int64(w*batches+i)))))
				}
				assert.NoError(t, s.Deliver(t.Context(), batch(rules, raws...)))
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(page(t, s)))
	require.NoError(t, err)
	var counted, observed float64
	for _, m := range families["requestcount_total"].GetMetric() {
		counted += m.GetCounter().GetValue()
	}
	for _, m := range families["h"].GetMetric() {
		observed += m.GetHistogram().GetSampleSum()
	}
	assert.InDelta(t, writers*batches*each, counted, 0)
	assert.InDelta(t, writers*batches*each, observed, 0)
}
