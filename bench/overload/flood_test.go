package overload

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/logentry"
)

// floodEnv makes a process of this test the flood, of the address that it names.
const floodEnv = "TOLLGATE_FLOOD_ADDRESS"

const (
	floodConnections = 8
	floodCallers     = 16  // on each connection
	floodRecords     = 100 // in a call
	floodNice        = 19  // the flood takes no processor that the measuring side wants
)

// flooded is what became of a flood's calls.
type flooded struct{ Accepted, Refused, Failed int64 }

// flood reports as fast as answers come, until in ends; then it writes what became of it.
func flood(address string, in io.Reader, out io.Writer) error {
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, floodNice); err != nil {
		return err
	}
	variables := map[string]string{}
	for i := range 12 {
		variables[fmt.Sprint("variable", i)] = strings.Repeat("v", 12)
	}
	instances := make([]*logentry.InstanceMsg, floodRecords)
	for i := range instances {
		instances[i] = mixertest.LogEntry(variables)
	}
	call := mixertest.LogEntries(mixertest.Params(&configpb.Params{Name: "flood"}), instances...)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var (
		callers                   sync.WaitGroup
		accepted, refused, failed atomic.Int64
	)
	for range floodConnections {
		connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { connection.Close() })
		for range floodCallers {
			callers.Go(func() {
				for ctx.Err() == nil {
					switch err := mixertest.SendReport(ctx, connection, mixertest.LogEntryMethod, call); {
					case err == nil:
						accepted.Add(1)
					case status.Code(err) == codes.ResourceExhausted:
						refused.Add(1)
					case ctx.Err() == nil:
						failed.Add(1)
					}
				}
			})
		}
	}
	_, err := io.Copy(io.Discard, in)
	stop()
	callers.Wait()
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(flooded{accepted.Load(), refused.Load(), failed.Load()})
}

// startFlood starts a flood, and returns what ends it.
func startFlood(t *testing.T, address string) (end func() flooded) {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), floodEnv+"="+address)
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	require.NoError(t, err)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	return func() (f flooded) {
		require.NoError(t, in.Close())
		require.NoError(t, json.NewDecoder(out).Decode(&f))
		require.NoError(t, command.Wait())
		return f
	}
}
