package otlp

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// BenchmarkEncode is about one record of a batch of 500: from the wire's bytes to the request, and to the request's bytes.
func BenchmarkEncode(b *testing.B) {
	const size = 500
	for kind, raw := range map[record.Kind]string{
		record.KindLogEntry: accessLog(), record.KindTraceSpan: span(), record.KindEdge: edge(), record.KindDecision: decision("deny"),
		record.KindMetric: metricOf("hits", integer(5)) + nested(2, entry("code", integer(200))) + nested(2, entry("destination", text("productpage.default"))),
	} {
		list := make([]sample, size)
		indices := make([]int, size)
		for i := range list {
			list[i].raw, indices[i] = raw, i
		}
		batch := newBatch(b, kind, list...)
		e := newEncoding(nil)
		signal, _ := signalOf(kind)
		for name, marshal := range map[string]bool{"map": false, "map and marshal": true} {
			b.Run(kind.String()+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for range (b.N + size - 1) / size {
					var refused refusals
					r := e.encode(b.Context(), signal, batch, indices, &refused)
					if marshal {
						if _, err := proto.Marshal(r.message); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
