package promsink

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

func TestNames(t *testing.T) {
	const instanceName = "request-size.instance.istio-system"
	for name, c := range map[string]struct {
		instance  string
		rule      record.MetricRule
		namespace string
		want      string
	}{
		"from the instance":            {want: "request_size_total"},
		"of a gauge":                   {rule: record.MetricRule{Kind: record.MetricGauge}, want: "request_size"},
		"with a unit":                  {rule: record.MetricRule{Unit: "By"}, want: "request_size_bytes_total"},
		"of a gauge with a unit":       {rule: record.MetricRule{Kind: record.MetricGauge, Unit: "s"}, want: "request_size_seconds"},
		"of a pure number":             {rule: record.MetricRule{Unit: "1"}, want: "request_size_total"},
		"with a unit of no name":       {rule: record.MetricRule{Unit: "{request}"}, want: "request_size_total"},
		"that has the unit":            {instance: "x_bytes.instance.a", rule: record.MetricRule{Unit: "By"}, want: "x_bytes_total"},
		"that has unit and total":      {instance: "x_bytes_total.instance.a", rule: record.MetricRule{Unit: "By"}, want: "x_bytes_total"},
		"that has total alone":         {instance: "x_total.instance.a", rule: record.MetricRule{Unit: "By"}, want: "x_bytes_total"},
		"that is the unit":             {instance: "bytes.instance.a", rule: record.MetricRule{Unit: "By"}, want: "bytes_total"},
		"that ends like the unit":      {instance: "milliseconds.instance.a", rule: record.MetricRule{Kind: record.MetricGauge, Unit: "s"}, want: "milliseconds_seconds"},
		"that begins with a digit":     {instance: "5xx.instance.a", want: "_5xx_total"},
		"of no letters that can be":    {instance: "größe\xff.instance.a", rule: record.MetricRule{Kind: record.MetricGauge}, want: "gr____e_"},
		"of one word":                  {instance: "requests", want: "requests_total"},
		"with a namespace":             {namespace: "istio", want: "istio_request_size_total"},
		"with a digit and a namespace": {instance: "5xx", namespace: "istio", want: "istio_5xx_total"},
		"given":                        {rule: record.MetricRule{Name: "istio_requests", Unit: "By"}, want: "istio_requests"},
		"given as the instance's":      {instance: "requests", rule: record.MetricRule{Name: "requests"}, want: "requests"},
		"given with a colon":           {rule: record.MetricRule{Name: "job:requests:sum"}, want: "job:requests:sum"},
		"given with a namespace":       {rule: record.MetricRule{Name: "requests"}, namespace: "istio", want: "istio_requests"},
		"given for OpenTelemetry":      {rule: record.MetricRule{Name: "http.server.requests", Unit: "s"}, want: "http_server_requests"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newSink(t, Options{Namespace: c.namespace})
			if c.instance == "" {
				c.instance = instanceName
			}
			c.rule.Instance = c.instance
			deliver(t, s, []record.MetricRule{c.rule}, instance(c.instance, integer(4)))
			assert.Equal(t, []string{c.want + " 4"}, samples(t, s))
		})
	}
}

func TestUnits(t *testing.T) {
	for ucum, word := range map[string]string{
		"d": "_days", "h": "_hours", "min": "_minutes", "s": "_seconds", "ms": "_milliseconds", "us": "_microseconds", "ns": "_nanoseconds",
		"By": "_bytes", "KiBy": "_kibibytes", "MiBy": "_mebibytes", "GiBy": "_gibibytes", "kBy": "_kilobytes", "MBy": "_megabytes", "GBy": "_gigabytes",
		"%": "_percent", "1": "", "": "", "m/s": "",
	} {
		s, _ := newSink(t, Options{})
		deliver(t, s, []record.MetricRule{{Instance: "m", Kind: record.MetricGauge, Unit: ucum}}, instance("m", integer(1)))
		assert.Equal(t, []string{"m" + word + " 1"}, samples(t, s))
	}
}

func TestLabels(t *testing.T) {
	for name, c := range map[string]struct {
		dimensions []string
		want       string
	}{
		"none":   {nil, ``},
		"sorted": {[]string{dimension("b", text("2")), dimension("a", text("1"))}, `{a="1",b="2"}`},
		"every kind of value": {
			[]string{
				dimension("text", text(`a"\`+"\n")), dimension("int", integer(math.MinInt64)), dimension("yes", boolean(true)), dimension("no", boolean(false)),
				dimension("ipv4", ip("\x0a\x00\x00\x01")), dimension("mapped", ip(strings.Repeat("\x00", 10)+"\xff\xff\x0a\x00\x00\x01")),
				dimension("instant", instant(1795262400, 120)), dimension("uri", nested(10, nested(1, "http://a/"))),
			},
			`{instant="2026-11-21T12:00:00.00000012Z",int="-9223372036854775808",ipv4="10.0.0.1",mapped="10.0.0.1",no="false",text="a\"\\\n",uri="http://a/",yes="true"}`,
		},
		"doubles": {
			[]string{
				dimension("a", double(1)), dimension("b", double(1e20)), dimension("c", double(1e21)), dimension("d", double(0.1)), dimension("e", double(1e-7)),
				dimension("f", double(math.NaN())), dimension("g", double(math.Inf(1))), dimension("h", double(math.Inf(-1))), dimension("i", double(0)),
			},
			`{a="1",b="100000000000000000000",c="1e+21",d="0.1",e="1e-07",f="NaN",g="+Inf",h="-Inf",i="0"}`,
		},
		"durations": {
			[]string{
				dimension("a", duration(0, 1_500_000)), dimension("b", duration(3600, 0)), dimension("c", duration(-1, -500_000_000)), dimension("d", duration(0, 0)),
				dimension("e", duration(9223372035, 999_999_999)), dimension("f", duration(0, -1)),
			},
			`{a="0.0015",b="3600",c="-1.5",d="0",e="9223372035.999999999",f="-0.000000001"}`,
		},
		"no value":                  {[]string{dimension("a", text("")), dimension("b"), dimension("c", ip("abc")), dimension("d", text("1"))}, `{d="1"}`},
		"no UTF-8":                  {[]string{dimension("a", text("x\xff\xe2\x82y"))}, `{a="x` + strings.Repeat("\uFFFD", 3) + `y"}`},
		"twice":                     {[]string{dimension("a", text("1")), dimension("b", text("2")), dimension("a", text("3"))}, `{a="3",b="2"}`},
		"names that cannot be":      {[]string{dimension("a.b", text("1")), dimension("5", text("2")), dimension("é", text("3")), dimension("__x", text("4"))}, `{_="3",_5="2",_x="4",a_b="1"}`},
		"names that become one":     {[]string{dimension("a_b", text("valid")), dimension("a.b", text("dot")), dimension("a-b", text("dash"))}, `{a_b="valid",a_b2="dash",a_b3="dot"}`},
		"one that is taken already": {[]string{dimension("a.b", text("dot")), dimension("a-b", text("dash")), dimension("a_b2", text("valid"))}, `{a_b="dash",a_b2="valid",a_b3="dot"}`},
		"empty name":                {[]string{dimension("", text("1")), dimension("_", text("2"))}, `{_="2",_2="1"}`},
		"of a bucket":               {[]string{dimension("le", text("1"))}, `{le="1"}`},
	} {
		t.Run(name, func(t *testing.T) {
			rules := []record.MetricRule{{Instance: "requestcount", Name: "requests"}}
			// Mixer sends maps in any order.
			for range 5 {
				s, _ := newSink(t, Options{})
				deliver(t, s, rules, requests(c.dimensions...))
				assert.Equal(t, []string{"requests" + c.want + " 1"}, samples(t, s))
				if len(c.dimensions) > 1 && name != "twice" {
					c.dimensions = append(c.dimensions[1:], c.dimensions[0])
				}
			}
		})
	}
}

func TestBucketsKeepTheirLabel(t *testing.T) {
	s, _ := newSink(t, Options{})
	deliver(t, s, []record.MetricRule{{Instance: "m", Kind: record.MetricHistogram, Bounds: []float64{1}}},
		instance("m", integer(1), dimension("le", text("a")), dimension("le2", text("b"))))
	assert.Equal(t, []string{
		`m_bucket{le2="b",le3="a",le="1"} 1`, `m_bucket{le2="b",le3="a",le="+Inf"} 1`, `m_sum{le2="b",le3="a"} 1`, `m_count{le2="b",le3="a"} 1`,
	}, samples(t, s))
}

// A value that is absent, empty or cannot be read makes one series: Prometheus could not tell them apart.
func TestEmptyLabelsAreNone(t *testing.T) {
	s, _ := newSink(t, Options{})
	deliver(t, s, nil, requests(), requests(dimension("a", text(""))), requests(dimension("b")))
	assert.Equal(t, []string{"requestcount_total 3"}, samples(t, s))
}

// Series are told apart by all of their labels and nothing else.
func TestSeriesAreTheirLabels(t *testing.T) {
	for name, c := range map[string]struct {
		raws   []string
		series int
	}{
		"texts that run into each other": {[]string{
			requests(dimension("a", text("1")), dimension("b", text("2"))), requests(dimension("a", text("1,b,2"))), requests(dimension("a", text("1\x00b\x002"))),
			requests(dimension("a", text("1\xffb\xff2"))),
		}, 4},
		"names that are the same in the end": {[]string{
			requests(dimension("é", text("1")), dimension("z", text("2"))), requests(dimension("_", text("1")), dimension("z", text("2"))),
		}, 1},
		"values that are the same text": {[]string{requests(dimension("a", text("1"))), requests(dimension("a", integer(1))), requests(dimension("a", double(1)))}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newSink(t, Options{})
			deliver(t, s, nil, c.raws...)
			assert.Len(t, samples(t, s), c.series)
		})
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]Options{
		"":                                 {},
		"namespace is \"a-b\"; begin":      {Namespace: "a-b"},
		"namespace is \"__a\"; begin":      {Namespace: "__a"},
		"namespace has 65 bytes; use":      {Namespace: strings.Repeat("a", 65)},
		"namespace is \"tollgate\", by":    {Namespace: "tollgate"},
		"max_series is 99; use 100":        {MaxSeries: 99},
		"max_series is -1; use 100":        {MaxSeries: -1},
		"max_series is 1000001; use":       {MaxSeries: 1_000_001},
		"idle_expiry is 59s; use 1m0s":     {IdleExpiry: 59e9},
		"idle_expiry is -1ns; use 1m0s to": {IdleExpiry: -1},
		"idle_expiry is 8760h0m0.000000":   {IdleExpiry: maxIdle + 1},
	} {
		_, err := New(o, nil)
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want)
	}
	err := Options{Namespace: "a-b", MaxSeries: 1, IdleExpiry: 1}.Validate()
	for _, key := range []string{"namespace", "max_series", "idle_expiry"} {
		require.ErrorContains(t, err, key, "all problems at once")
	}
	assert.NoError(t, Options{Namespace: "istio_proxy1", MaxSeries: minSeries, IdleExpiry: minIdle}.Validate())
	assert.NoError(t, Options{MaxSeries: maxSeries, IdleExpiry: maxIdle}.Validate())
}
