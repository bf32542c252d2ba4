package activity_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/activity"
	"github.com/tollgate-mesh/tollgate/config"
)

// More handlers than there is room for cost a check no more than as many as there is.
func BenchmarkHandlers(b *testing.B) {
	for _, n := range []int{200, 300} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			a, r, d := activity.New(), request(), allow
			handlers := make([]*config.Handler, n)
			for i := range handlers {
				handlers[i] = &config.Handler{Name: fmt.Sprint("h", i), Fingerprint: fmt.Sprint("f", i)}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				a.Decided("", "mixer", handlers[i%n], r, &d, time.Millisecond)
			}
		})
	}
}
