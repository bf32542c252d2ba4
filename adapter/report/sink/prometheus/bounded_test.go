package promsink

import (
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Twenty minutes of 1 000 new label values a second: nothing is lost, and memory stays what it was after the first minutes. Series come and
// go all the time.
func TestChurnKeepsMemoryFlat(t *testing.T) {
	const perSecond, seconds = 1000, 1200
	if testing.Short() {
		t.Skip("counts 1.2 million values")
	}
	s, clock := newSink(t, Options{MaxSeries: 2000, IdleExpiry: time.Minute})
	raws := make([]string, perSecond)
	var early uint64
	for second := range seconds {
		for i := range raws {
			raws[i] = requests(dimension("path", text("/item/"+strconv.Itoa(second*perSecond+i))), dimension("code", integer(200)))
		}
		require.NoError(t, s.Deliver(t.Context(), batch(nil, raws...)))
		require.LessOrEqual(t, s.Series(), 2001)
		clock.now = clock.now.Add(time.Second)
		if second == seconds/10 {
			early = heap()
		}
	}
	late := heap()
	assert.Less(t, late, early+1<<20, "early %d bytes, late %d bytes", early, late)
	t.Logf("heap after 2 minutes %d KiB, after 20 minutes %d KiB; %d of %d values overflowed", early>>10, late>>10, s.Overflowed(), perSecond*seconds)
	assert.Greater(t, s.Overflowed(), uint64(perSecond*seconds/2))
	runtime.KeepAlive(s)
}

func BenchmarkDeliver(b *testing.B) {
	const size = 100
	known := make([]string, size)
	for i := range known {
		known[i] = requests(dimension("source", text("productpage-v1")), dimension("destination", text("reviews-v"+strconv.Itoa(i%10))),
			dimension("response_code", integer(200)), dimension("protocol", text("http")), dimension("mtls", boolean(true)))
	}
	histogram := make([]string, size)
	for i := range histogram {
		histogram[i] = instance("requestduration.instance.istio-system", duration(0, int64(i)*1e6), dimension("destination", text("reviews")))
	}
	for name, raws := range map[string][]string{"counter": known, "histogram": histogram} {
		b.Run(name, func(b *testing.B) {
			s, _ := newSink(b, Options{})
			records := batch(istio, raws...)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Deliver(b.Context(), records); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/record")
		})
	}
}

// BenchmarkChurn delivers label values that never come again.
func BenchmarkChurn(b *testing.B) {
	const size, batches = 100, 1000
	s, clock := newSink(b, Options{MaxSeries: 2000, IdleExpiry: time.Minute})
	work := make([][]string, batches)
	for i := range work {
		for j := range size {
			work[i] = append(work[i], requests(dimension("path", text("/item/"+strconv.Itoa(i*size+j)))))
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := s.Deliver(b.Context(), batch(istio, work[i%batches]...)); err != nil {
			b.Fatal(err)
		}
		clock.now = clock.now.Add(time.Second / 10)
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/record")
	b.ReportMetric(float64(s.Series()), "series")
}

func BenchmarkScrape(b *testing.B) {
	s, _ := newSink(b, Options{})
	raws := make([]string, 0, defaultSeries)
	for i := range defaultSeries / 2 {
		k := dimension("k", integer(int64(i)))
		raws = append(raws, requests(k), instance("requestduration", double(0.05), k))
	}
	require.NoError(b, s.Deliver(b.Context(), batch(istio, raws...)))
	b.Run("snapshot", func(b *testing.B) { // deliveries wait so long
		b.ReportAllocs()
		for b.Loop() {
			s.snapshot()
		}
	})
	b.Run("page", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			page(b, s)
		}
	})
}
