package record_test

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/wire"
)

// fullDelivery has all that there is to say.
func fullDelivery() *record.Delivery {
	return &record.Delivery{
		SampleOneIn: 1_000_000_000,
		Severities:  []record.Severity{{Text: "Loud", Number: record.SeverityError}, {}, {Text: "\xff", Number: record.SeverityFatal + 3}},
		Metrics: []record.MetricRule{
			{
				Instance: "requestduration.instance.istio-system", Name: "istio_request_duration", Kind: record.MetricHistogram, Unit: "s",
				Description: "How long\nthey take.", Bounds: []float64{-1, 0, math.SmallestNonzeroFloat64, 0.1, math.MaxFloat64},
			},
			{},
			{Instance: "open", Kind: record.MetricGauge, Unit: "{connection}"},
			{Instance: "requestcount", Kind: record.MetricCounter},
		},
	}
}

func TestDeliveriesComeBack(t *testing.T) {
	for name, d := range map[string]*record.Delivery{
		"nothing":                  nil,
		"everything":               fullDelivery(),
		"a sample":                 {SampleOneIn: 10},
		"severities":               {Severities: []record.Severity{{Text: "loud", Number: record.SeverityError}}},
		"a severity of no text":    {Severities: []record.Severity{{}}},
		"a rule that says nothing": {Metrics: []record.MetricRule{{}}},
		"a long text":              {Metrics: []record.MetricRule{{Description: strings.Repeat("x", 100_000)}}},
	} {
		t.Run(name, func(t *testing.T) {
			raw := d.Append(nil)
			back, err := record.ParseDelivery(string(raw))
			require.NoError(t, err)
			assert.Equal(t, d, back)
			assert.Equal(t, "before"+string(raw), string(d.Append([]byte("before"))))
		})
	}
	assert.Empty(t, (&record.Delivery{}).Append(nil), "what is all defaults takes no room in a frame")
}

// The wire form is kept on disks: this is how the first version wrote it.
func TestDeliveryWireForm(t *testing.T) {
	raw := number(1, 10) + nested(2, nested(1, "Loud"), number(2, 17)) +
		nested(3, nested(1, "m"), nested(2, "n"), number(3, 3), nested(4, "s"), nested(5, "d"), "\x31\x00\x00\x00\x00\x00\x00\xf0\x3f", "\x31\x00\x00\x00\x00\x00\x00\x00\x40")
	want := &record.Delivery{
		SampleOneIn: 10,
		Severities:  []record.Severity{{Text: "Loud", Number: record.SeverityError}},
		Metrics:     []record.MetricRule{{Instance: "m", Name: "n", Kind: record.MetricHistogram, Unit: "s", Description: "d", Bounds: []float64{1, 2}}},
	}
	assert.Equal(t, raw, string(want.Append(nil)))
	later := number(9, 1) + strings.Replace(raw, nested(1, "Loud"), nested(1, "Loud")+nested(7, "x"), 1)
	later = strings.Replace(later, string([]byte{0x12, byte(len(nested(1, "Loud") + number(2, 17)))}), string([]byte{0x12, byte(len(nested(1, "Loud") + number(2, 17) + nested(7, "x")))}), 1)
	for _, raw := range []string{raw, later} {
		d, err := record.ParseDelivery(raw)
		require.NoError(t, err)
		assert.Equal(t, want, d, "what a later version adds is passed over")
	}
}

func TestParseDeliveryRefuses(t *testing.T) {
	whole := string(fullDelivery().Append(nil))
	fields := map[int]bool{}
	r := wire.NewReader(whole)
	for _, typ, ok := r.Next(); ok; _, typ, ok = r.Next() {
		r.Skip(typ)
		fields[len(whole)-len(r.Rest())] = true
	}
	for n := 1; n < len(whole); n++ {
		_, err := record.ParseDelivery(whole[:n])
		if fields[n] {
			require.NoError(t, err, "%d bytes are whole fields", n)
			continue
		}
		require.ErrorIs(t, err, wire.ErrMalformed, "%d bytes", n)
		require.ErrorContains(t, err, "delivery: ")
	}
	for name, raw := range map[string]string{
		"a sample in words":         nested(1, "10"),
		"a severity as a number":    number(2, 1),
		"a severity cut":            nested(2, "\x0a\x05x"),
		"a metric cut":              nested(3, "\x0a\x05x"),
		"a bound as a whole number": nested(3, number(6, 1)),
		"a kind in words":           nested(3, nested(3, "COUNTER")),
	} {
		_, err := record.ParseDelivery(raw)
		require.ErrorIs(t, err, wire.ErrMalformed, name)
	}
}

func TestSeverity(t *testing.T) {
	own := &record.Delivery{Severities: []record.Severity{
		{Text: "Loud", Number: record.SeverityError},
		{Text: "info", Number: record.SeverityTrace},
		{Text: "LOUD", Number: record.SeverityFatal},
		{Text: "error", Number: record.SeverityUnspecified},
	}}
	for _, c := range []struct {
		d    *record.Delivery
		text string
		want record.SeverityNumber
	}{
		{nil, "trace", record.SeverityTrace},
		{nil, "debug", record.SeverityDebug},
		{nil, "Default", record.SeverityInfo},
		{nil, "INFO", record.SeverityInfo},
		{nil, "notice", record.SeverityInfo + 1},
		{nil, "warn", record.SeverityWarn},
		{nil, "Warning", record.SeverityWarn},
		{nil, "error", record.SeverityError},
		{nil, "critical", record.SeverityFatal},
		{nil, "alert", record.SeverityFatal + 1},
		{nil, "emergency", record.SeverityFatal + 2},
		{nil, "fatal", record.SeverityFatal},
		{nil, "", record.SeverityUnspecified},
		{nil, "loud", record.SeverityUnspecified},
		{nil, " info", record.SeverityUnspecified},
		{&record.Delivery{}, "info", record.SeverityInfo},
		{own, "lOUD", record.SeverityError},         // the first
		{own, "Info", record.SeverityTrace},         // not the common one
		{own, "error", record.SeverityUnspecified},  // neither
		{own, "warn", record.SeverityWarn},          // nothing said about it
		{own, "louder", record.SeverityUnspecified}, // not a part
	} {
		assert.Equal(t, c.want, c.d.Severity(c.text), "%q", c.text)
	}
}

func TestShortInstance(t *testing.T) {
	for name, want := range map[string]string{"requestcount.instance.istio-system": "requestcount", "requestcount": "requestcount", "": "", ".instance.a": ""} {
		assert.Equal(t, want, record.ShortInstance(name), name)
	}
}

func TestRule(t *testing.T) {
	const full = "m.instance.a"
	gauge, counter := record.MetricRule{Instance: "m", Kind: record.MetricGauge}, record.MetricRule{Instance: full, Kind: record.MetricCounter}
	for name, c := range map[string]struct {
		rules    []record.MetricRule
		instance string
		value    string
		want     record.MetricRule
	}{
		"no rule, int64":          {nil, full, integer(1), record.MetricRule{Instance: full, Name: "m", Kind: record.MetricCounter}},
		"no rule, double":         {nil, full, double(1), record.MetricRule{Instance: full, Name: "m", Kind: record.MetricHistogram, Bounds: record.DefaultBounds}},
		"no rule, duration":       {nil, full, duration(1, 0), record.MetricRule{Instance: full, Name: "m", Kind: record.MetricHistogram, Unit: "s", Bounds: record.DefaultBounds}},
		"no rule, no value":       {nil, full, "", record.MetricRule{Instance: full, Name: "m", Kind: record.MetricHistogram, Bounds: record.DefaultBounds}},
		"no rule, no name":        {nil, "", integer(1), record.MetricRule{Kind: record.MetricCounter}},
		"another's rule":          {[]record.MetricRule{{Instance: "other", Name: "n"}}, full, integer(1), record.MetricRule{Instance: full, Name: "m", Kind: record.MetricCounter}},
		"by the first part":       {[]record.MetricRule{gauge}, full, integer(1), record.MetricRule{Instance: "m", Name: "m", Kind: record.MetricGauge}},
		"by the full name":        {[]record.MetricRule{counter}, full, double(1), record.MetricRule{Instance: full, Name: "m", Kind: record.MetricCounter}},
		"full name after":         {[]record.MetricRule{gauge, counter}, full, double(1), record.MetricRule{Instance: full, Name: "m", Kind: record.MetricCounter}},
		"full name before":        {[]record.MetricRule{counter, gauge}, full, double(1), record.MetricRule{Instance: full, Name: "m", Kind: record.MetricCounter}},
		"of another namespace":    {[]record.MetricRule{counter, gauge}, "m.instance.b", double(1), record.MetricRule{Instance: "m", Name: "m", Kind: record.MetricGauge}},
		"a part of the name":      {[]record.MetricRule{{Instance: "m.instance", Name: "n"}}, full, integer(1), record.MetricRule{Instance: full, Name: "m", Kind: record.MetricCounter}},
		"the first of two":        {[]record.MetricRule{{Instance: "m", Name: "first"}, {Instance: "m", Name: "second"}}, full, integer(1), record.MetricRule{Instance: "m", Name: "first", Kind: record.MetricCounter}},
		"a name that is one part": {[]record.MetricRule{gauge}, "m", integer(1), record.MetricRule{Instance: "m", Name: "m", Kind: record.MetricGauge}},
		"everything said": {
			[]record.MetricRule{{Instance: "m", Name: "n", Kind: record.MetricHistogram, Unit: "By", Description: "d", Bounds: []float64{1, 2}}},
			full, integer(1),
			record.MetricRule{Instance: "m", Name: "n", Kind: record.MetricHistogram, Unit: "By", Description: "d", Bounds: []float64{1, 2}},
		},
		"a kind from the future": {[]record.MetricRule{{Instance: "m", Kind: 9}}, full, integer(1), record.MetricRule{Instance: "m", Name: "m", Kind: record.MetricCounter}},
		"duration counted":       {[]record.MetricRule{counter}, full, duration(1, 0), record.MetricRule{Instance: full, Name: "m", Kind: record.MetricCounter, Unit: "s"}},
		"duration in another unit": {
			[]record.MetricRule{{Instance: "m", Kind: record.MetricGauge, Unit: "ms"}},
			full, duration(1, 0),
			record.MetricRule{Instance: "m", Name: "m", Kind: record.MetricGauge, Unit: "s"},
		},
		"histogram without bounds": {[]record.MetricRule{{Instance: "m", Kind: record.MetricHistogram}}, full, integer(1), record.MetricRule{Instance: "m", Name: "m", Kind: record.MetricHistogram, Bounds: record.DefaultBounds}},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := record.DecodeMetric(nested(1, c.value) + instance(c.instance))
			require.NoError(t, err)
			d := &record.Delivery{Metrics: c.rules}
			assert.Equal(t, c.want, d.Rule(&m))
			if c.rules == nil {
				assert.Equal(t, c.want, (*record.Delivery)(nil).Rule(&m))
			}
		})
	}
}

func TestKindsFromTheFutureStayUnknown(t *testing.T) {
	d, err := record.ParseDelivery(nested(3, nested(1, "m"), number(3, 256+uint64(record.MetricGauge))))
	require.NoError(t, err)
	m := record.Metric{Name: "m"}
	assert.Equal(t, record.MetricHistogram, d.Rule(&m).Kind, "the default, not what the low bits happen to be")
}

func TestNumber(t *testing.T) {
	for name, c := range map[string]struct {
		value string
		want  float64
		err   string
	}{
		"int64":             {value: integer(-5), want: -5},
		"largest int64":     {value: integer(math.MaxInt64), want: 1 << 63},
		"double":            {value: double(0.25), want: 0.25},
		"largest double":    {value: double(-math.MaxFloat64), want: -math.MaxFloat64},
		"duration":          {value: duration(1, 500_000_000), want: 1.5},
		"negative duration": {value: duration(0, -1_000_000), want: -0.001},
		"NaN":               {value: double(math.NaN()), err: "the metric's value is not finite"},
		"infinite":          {value: double(math.Inf(1)), err: "the metric's value is not finite"},
		"minus infinite":    {value: double(math.Inf(-1)), err: "the metric's value is not finite"},
		"none":              {value: "", err: "the metric has no value; check"},
		"unreadable":        {value: ip("abc"), err: "the metric has no value; check"},
		"string":            {value: text("12"), err: "no number but a string"},
		"bool":              {value: boolean(true), err: "no number but a bool"},
		"IP address":        {value: ip(ipv4), err: "no number but a IP address"},
		"timestamp":         {value: instant(stamp(noon, 0)), err: "no number but a timestamp"},
		"email address":     {value: email("1"), err: "no number but a email address"},
		"DNS name":          {value: dnsName("1"), err: "no number but a DNS name"},
		"URI":               {value: uri("1"), err: "no number but a URI"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := record.DecodeMetric(nested(1, c.value) + instance("m"))
			require.NoError(t, err)
			got, err := m.Number()
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			assert.InDelta(t, c.want, got, 0)
		})
	}
}

// What can be parsed is written as something that says the same, and can be used.
func FuzzParseDelivery(f *testing.F) {
	f.Add(string(fullDelivery().Append(nil)))
	f.Add("")
	f.Add(number(1, math.MaxUint64) + nested(2, number(2, math.MaxUint64)) + nested(3, number(3, 300)))
	f.Add(nested(2) + nested(9, "x") + nested(3, nested(1, "a"), nested(1, "b")))
	f.Fuzz(func(t *testing.T, raw string) {
		d, err := record.ParseDelivery(raw)
		if err != nil {
			require.ErrorIs(t, err, wire.ErrMalformed)
			require.Nil(t, d)
			return
		}
		written := string(d.Append(nil))
		back, err := record.ParseDelivery(written)
		require.NoError(t, err)
		require.Equal(t, written, string(back.Append(nil)))
		if d == nil || back == nil {
			require.Empty(t, written)
			return
		}
		require.Len(t, back.Severities, len(d.Severities))
		require.Len(t, back.Metrics, len(d.Metrics))
		for i := range d.Metrics {
			m := record.Metric{Name: d.Metrics[i].Instance}
			rule := d.Rule(&m)
			require.NotEqual(t, record.MetricDefault, rule.Kind)
			d.Severity(d.Metrics[i].Name)
		}
	})
}

func FuzzDeliveriesComeBack(f *testing.F) {
	f.Add(int64(10), "Loud", int32(17), "m", "n", uint8(3), "s", "d", 0.1)
	f.Fuzz(func(t *testing.T, sample int64, severity string, number int32, instance, name string, kind uint8, unit, description string, bound float64) {
		if sample < 0 || number < 0 || math.IsNaN(bound) {
			return
		}
		d := &record.Delivery{
			SampleOneIn: sample,
			Severities:  []record.Severity{{Text: severity, Number: record.SeverityNumber(number)}},
			Metrics:     []record.MetricRule{{Instance: instance, Name: name, Kind: record.MetricKind(kind), Unit: unit, Description: description, Bounds: []float64{bound, 1}}},
		}
		back, err := record.ParseDelivery(string(d.Append(nil)))
		require.NoError(t, err)
		require.Equal(t, d, back)
	})
}
