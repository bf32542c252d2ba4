package spool

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cpu is the processor time the process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// report says what one operation and one record cost, and how long operations took.
func report(b *testing.B, start time.Duration, records int, times []time.Duration) {
	b.Helper()
	used := cpu(b) - start
	b.ReportMetric(float64(used.Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(used.Nanoseconds())/float64(b.N*records), "cpu-ns/record")
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkRawSync is what the disk takes for the same writes without any queue: one write behind the last and one fdatasync.
func BenchmarkRawSync(b *testing.B) {
	for _, size := range []int{46_000, 500} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			f, err := osFS{}.Create(filepath.Join(b.TempDir(), "raw"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			frame, times := make([]byte, size+recordHeader), make([]time.Duration, b.N)
			start := cpu(b)
			b.ResetTimer()
			for i := range b.N {
				began := time.Now()
				if _, err := f.WriteAt(frame, int64(i)*int64(len(frame))); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				times[i] = time.Since(began)
			}
			b.StopTimer()
			report(b, start, 100, times)
		})
	}
}

// BenchmarkAppend accepts frames of 100 records (46 kB) and small ones. The oldest are dropped, so that only accepting is
// measured.
func BenchmarkAppend(b *testing.B) {
	for _, kind := range []string{"disk", "os", "memory"} {
		for _, size := range []int{46_000, 500} {
			for _, appenders := range []int{1, 32} {
				b.Run(fmt.Sprintf("%s/%dB/%d", kind, size, appenders), func(b *testing.B) {
					q := benchQueue(b, kind, Options{MaxBytes: 256 << 20, Full: DropOldest})
					through(b, q, size, appenders)
				})
			}
		}
	}
}

// BenchmarkThrough accepts frames and hands them out again.
func BenchmarkThrough(b *testing.B) {
	for _, kind := range []string{"disk", "memory"} {
		for _, size := range []int{46_000, 500} {
			b.Run(fmt.Sprintf("%s/%dB/32", kind, size), func(b *testing.B) {
				q := benchQueue(b, kind, Options{MaxBytes: 256 << 20, FullWait: time.Minute})
				ctx, cancel := context.WithCancel(b.Context())
				var consumer sync.WaitGroup
				consumer.Go(func() {
					for {
						f, err := q.Next(ctx)
						if err != nil {
							return
						}
						q.Done(f.Sequence, Outcome{})
					}
				})
				through(b, q, size, 32)
				cancel()
				consumer.Wait()
			})
		}
	}
}

func benchQueue(b *testing.B, kind string, o Options) Queue {
	b.Helper()
	var q Queue
	var err error
	switch kind {
	case "memory":
		q, err = NewMemory(o)
	case "os":
		o.Sync = SyncOS
		fallthrough
	default:
		q, err = Open(filepath.Join(b.TempDir(), "queue"), o)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = q.Close() })
	return q
}

func through(b *testing.B, q Queue, size, appenders int) {
	b.Helper()
	frame, times := make([]byte, size), make([]time.Duration, b.N)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	start := cpu(b)
	b.ResetTimer()
	var next atomic.Int64
	var all sync.WaitGroup
	for range appenders {
		all.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				began := time.Now()
				if err := put(q, Frame{Sequence: uint64(i), Arrival: began, Records: 100, Payload: frame}); err != nil {
					b.Error(err)
				}
				times[i-1] = time.Since(began)
			}
		})
	}
	all.Wait()
	b.StopTimer()
	report(b, start, 100, times)
}

// BenchmarkOpen recovers 256 MB.
func BenchmarkOpen(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "queue")
	q, err := Open(dir, Options{Sync: SyncOS})
	if err != nil {
		b.Fatal(err)
	}
	for i := range uint64(5500) {
		if err := put(q, Frame{Sequence: i, Records: 100, Payload: make([]byte, 46_000)}); err != nil {
			b.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	var size int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	b.SetBytes(size)
	for b.Loop() {
		q, err := Open(dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = q.Close()
		b.StartTimer()
	}
}
