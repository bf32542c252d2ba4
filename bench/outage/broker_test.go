package outage

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	topic      = "records"
	partitions = 4

	// These make a process of this test the fake broker.
	brokerDirectory = "TOLLGATE_FAKE_BROKER_DIRECTORY"
	brokerPort      = "TOLLGATE_FAKE_BROKER_PORT"
)

// fakeBroker is kfake, a fake of a Kafka broker, as a process that keeps its data and its port between its lives.
type fakeBroker struct {
	directory, port string
	address         string
	command         *exec.Cmd
}

func newFakeBroker(t *testing.T) *fakeBroker {
	t.Helper()
	b := &fakeBroker{directory: t.TempDir(), port: "0"}
	b.start(t)
	t.Cleanup(func() {
		if b.command != nil {
			b.kill(t)
		}
	})
	return b
}

// start starts a life. It ends with this process, which holds the other end of its standard input.
func (b *fakeBroker) start(t *testing.T) {
	t.Helper()
	b.command = exec.Command(os.Args[0])
	b.command.Env = append(os.Environ(), brokerDirectory+"="+b.directory, brokerPort+"="+b.port)
	b.command.Stderr = os.Stderr
	_, err := b.command.StdinPipe()
	require.NoError(t, err)
	output, err := b.command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, b.command.Start())
	line, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	b.address = strings.TrimSpace(line)
	_, b.port, err = net.SplitHostPort(b.address)
	require.NoError(t, err)
}

func (b *fakeBroker) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, b.command.Process.Kill())
	require.Error(t, b.command.Wait())
	b.command = nil
}

func serveFakeBroker(directory, port string, in io.Reader, out io.Writer) error {
	options := []kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic), kfake.DataDir(directory)}
	if port != "0" {
		var n int
		if _, err := fmt.Sscan(port, &n); err != nil {
			return err
		}
		options = append(options, kfake.Ports(n))
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		return err
	}
	defer cluster.Close()
	fmt.Fprintln(out, cluster.ListenAddrs()[0])
	_, err = io.Copy(io.Discard, in)
	return err
}

// read calls see for every record that the fake broker has.
func (b *fakeBroker) read(t *testing.T, see func(id, sent string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.address), kgo.ConsumeTopics(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
	require.NoError(t, err)
	defer client.Close()
	// The end of a partition is where one more message goes.
	for partition := range int32(partitions) {
		require.NoError(t, client.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: partition}).FirstErr())
	}
	for ends := 0; ends < partitions; {
		fetches := client.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			if len(r.Value) == 0 {
				ends++
				return
			}
			var l line
			require.NoError(t, json.Unmarshal(r.Value, &l))
			see(l.ID, l.Variables.Number)
		})
	}
}

// line is what matters of a record as JSON.
type line struct {
	ID        string `json:"id"`
	Variables struct {
		Number string `json:"number"`
	} `json:"variables"`
}
