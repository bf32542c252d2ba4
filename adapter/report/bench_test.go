package report

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// BenchmarkAccept accepts calls of 100 records and 46 kB, while a fake sink that does nothing takes them.
func BenchmarkAccept(b *testing.B) {
	call := &Call{Kind: record.KindLogEntry, Handler: "bookinfo", Caller: "mixer"}
	for range 100 {
		call.Instances = append(call.Instances, strings.Repeat("i", 460))
	}
	for _, kind := range []string{"memory", "disk", "disk, synced by the system"} {
		b.Run(kind, func(b *testing.B) {
			var q spool.Queue
			var err error
			switch o := (spool.Options{FullWait: time.Minute}); kind {
			case "memory":
				q, err = spool.NewMemory(o)
			case "disk":
				q, err = spool.Open(b.TempDir(), o)
			default:
				o.Sync = spool.SyncOS
				q, err = spool.Open(b.TempDir(), o)
			}
			require.NoError(b, err)
			batching := gathering(1000)
			batching.Wait = 100 * time.Millisecond
			p, err := NewPipeline([]Lane{{Name: "idle", Sink: idleSink{}, Queue: q, Batching: batching, DeadLetters: &fakeLetters{}}}, slog.New(slog.DiscardHandler))
			require.NoError(b, err)
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx, time.Minute) }()
			b.SetBytes(46_000)
			b.ReportAllocs()
			b.SetParallelism(8)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := p.Accept(context.Background(), call); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			cancel()
			require.NoError(b, <-done)
		})
	}
}

// idleSink takes all and does nothing.
type idleSink struct{}

func (idleSink) Deliver(context.Context, []record.Record) error { return nil }
func (idleSink) Close(context.Context) error                    { return nil }
