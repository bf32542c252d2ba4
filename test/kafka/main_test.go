// Package kafka tests the kafka sink against kfake, a fake broker on real ports, in this process and in one of its own.
package kafka

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/kafka"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(fakeBrokerDir); dir != "" {
		if err := runFakeBroker(dir, os.Getenv(fakeBrokerPort), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

const topic = "records"

// newFakeCluster has one topic of four partitions on one fake broker.
func newFakeCluster(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(4, topic)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func open(t *testing.T, o kafka.Options) *kafka.Sink {
	t.Helper()
	if o.Topic == "" {
		o.Topic = topic
	}
	sink, err := kafka.New(o, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: logLevel()})))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sink.Close(context.Background())) })
	return sink
}

func logLevel() slog.Level {
	if os.Getenv("TOLLGATE_DEBUG") != "" {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// field is a field of a protobuf message.
func field(number protowire.Number, content string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), content))
}

// nothing is an instance of the template reportnothing, the smallest there is.
func nothing(name string) string {
	const nameField = 72295727
	return field(nameField, name)
}

// batch makes records of one call.
func batch(sequence uint64, n int) []record.Record {
	records := make([]record.Record, n)
	for i := range records {
		records[i] = record.Record{
			Spool: record.SpoolID{1}, Sequence: sequence, Index: i, Kind: record.KindNothing, Handler: "bookinfo",
			Arrived: time.Unix(1_795_262_400, 5_000_000), Raw: nothing(fmt.Sprintf("%d/%d", sequence, i)),
		}
	}
	return records
}

func ids(records []record.Record) []string {
	texts := make([]string, len(records))
	for i := range records {
		texts[i] = records[i].ID()
	}
	return texts
}

// stored is a message with what its value says.
type stored struct {
	*kgo.Record

	ID, Instance string
}

// consume reads all that the topic has at present.
func consume(t *testing.T, topic string, opts ...kgo.Opt) []stored {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The end is where one more message goes, in every partition; consuming ends when all of these have come.
	opts = append([]kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ConsumeTopics(topic), kgo.DisableClientMetrics()}, opts...)
	c, err := kgo.NewClient(opts...)
	require.NoError(t, err)
	defer c.Close()
	ends := 0
	for partition := int32(0); ; partition++ {
		err = c.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: partition, Key: []byte("end")}).FirstErr()
		if err != nil { // there is no such partition
			require.NoError(t, ctx.Err())
			break
		}
		ends++
	}
	require.Positive(t, ends)
	var all []stored
	for ends > 0 {
		fetches := c.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			if string(r.Key) == "end" {
				if time.Since(r.Timestamp) < time.Minute {
					ends--
				}
				return
			}
			s := stored{Record: r}
			require.NoError(t, json.Unmarshal(r.Value, &s))
			all = append(all, s)
		})
	}
	return all
}

// times counts how often each id is there.
func times(all []stored) map[string]int {
	count := map[string]int{}
	for _, s := range all {
		count[s.ID]++
	}
	return count
}

// requireOnce means that the topic has these records, each once, and no others.
func requireOnce(t *testing.T, c *kfake.Cluster, records ...[]record.Record) {
	t.Helper()
	count := times(consume(t, topic, kgo.SeedBrokers(c.ListenAddrs()...)))
	total := 0
	for _, batch := range records {
		for _, id := range ids(batch) {
			require.Equal(t, 1, count[id], id)
		}
		total += len(batch)
	}
	require.Len(t, count, total)
}

func refusedForGood(t *testing.T, err error) []int {
	t.Helper()
	u, ok := errors.AsType[*report.Undelivered](err)
	require.True(t, ok, "%v", err)
	require.True(t, u.Permanent, "%v", err)
	return u.Records
}

func requireRetryable(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	if u, ok := errors.AsType[*report.Undelivered](err); ok {
		require.False(t, u.Permanent, "%v", err)
	}
}

const (
	fakeBrokerDir  = "TOLLGATE_FAKE_BROKER_DIR"
	fakeBrokerPort = "TOLLGATE_FAKE_BROKER_PORT"
)

// runFakeBroker is a process of its own until its standard input ends. What it holds is in the directory. Port 0 is one that is free, from below
// those that Linux gives to outgoing connections, so that no client takes it while the broker is down.
func runFakeBroker(dir, port string, in io.Reader, out io.Writer) error {
	var n int
	if _, err := fmt.Sscan(port, &n); err != nil {
		return err
	}
	begin := func(port int) (*kfake.Cluster, error) {
		return kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, topic), kfake.DataDir(dir), kfake.Ports(port))
	}
	c, err := begin(cmp.Or(n, somePort()))
	for tries := 100; n == 0 && errors.Is(err, syscall.EADDRINUSE) && tries > 0; tries-- {
		c, err = begin(somePort())
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(out, c.ListenAddrs()[0])
	_, err = io.Copy(io.Discard, in)
	c.Close()
	return err
}

// somePort is none that the other tests take that may run at the same time.
func somePort() int { return 14_000 + rand.IntN(6_000) }
