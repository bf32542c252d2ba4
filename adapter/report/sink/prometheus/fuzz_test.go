package promsink

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// Whatever is reported under whatever rule, it is counted or refused for good, and the page stays one that Prometheus can read.
func FuzzDeliver(f *testing.F) {
	bounds := string(binary.LittleEndian.AppendUint64(nil, math.Float64bits(1)))
	f.Add(requests(dimension("a.b", text("\xff")), dimension("a-b", double(math.NaN()))), requests(), "", uint8(0), "1", "help", bounds)
	f.Add(instance("h", duration(1, 5), dimension("le", text("x"))), instance("c", integer(1), dimension("\xfe", ip("abcd"))), "h_count", uint8(3), "s", "\xff\n\\", bounds+bounds)
	f.Add(instance("h_total", double(math.MaxFloat64)), instance("h", double(math.MaxFloat64)), "9", uint8(1), "By", "", "")
	f.Add(instance("", integer(-1), dimension("", boolean(true)), dimension("__", instant(1, 1))), "", "tollgate_", uint8(2), "%", "", "")
	f.Fuzz(func(t *testing.T, first, second, name string, kind uint8, unit, help, bounds string) {
		rule := record.MetricRule{Instance: "h", Name: name, Kind: record.MetricKind(kind), Unit: unit, Description: help}
		for b := []byte(bounds); len(b) >= 8; b = b[8:] {
			rule.Bounds = append(rule.Bounds, math.Float64frombits(binary.LittleEndian.Uint64(b)))
		}
		s, _ := newSink(t, Options{})
		records := batch([]record.MetricRule{rule, {Instance: "requestcount", Name: name}}, first, second, instance("h", double(0.5)), requests(), instance("h_bucket", integer(1)), first)
		refused := map[int]bool{}
		err := s.Deliver(t.Context(), records)
		if err != nil {
			u, ok := errors.AsType[*report.Undelivered](err)
			require.True(t, ok, "%v", err)
			require.True(t, u.Permanent)
			for _, i := range u.Records {
				refused[i] = true
			}
		}
		for i := range records {
			if record.Check(record.KindMetric, records[i].Raw) != nil {
				require.True(t, refused[i], "record %d is malformed", i)
			}
		}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(page(t, s)))
		require.NoError(t, err)
		require.Equal(t, len(refused) < len(records), len(families) > 0)
	})
}
