//go:build unix

package adapter

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// benchServer, set in the environment, makes the test binary a server: "empty", "tollgate", "forgetful", which remembers no answers, or
// "traced", which makes spans of one call in 100.
const benchServer = "TOLLGATE_BENCH_SERVER"

func TestMain(m *testing.M) {
	if kind := os.Getenv(benchServer); kind != "" {
		serveBench(kind)
		return
	}
	m.Run()
}

// BenchmarkServer measures the CPU that a whole server spends on a call, as a ratio to the empty handler: a default gRPC server
// whose codec hands bytes through. Servers run in processes of their own, so that the client's work is not in the figures; each
// round asks all of them in turn, and the ratios are medians over the rounds. Metrics and recovery are on, the log is at info.
//
// The first time for a policy is measured twice: by a server that remembers nothing, and as a miss, where every call has a user of its own,
// whom the policy reads, so that each answer is also added to what is remembered.
//
// One iteration is a round of 20 000 calls for each server: run it with -benchtime 10x or so.
func BenchmarkServer(b *testing.B) {
	const calls = 20_000
	type variant struct {
		name   string
		calls  [][]byte
		server *benchProcess
		sent   atomic.Int64
		micros []float64
	}
	tollgate, forgetful := startBench(b, "tollgate"), startBench(b, "forgetful")
	traced, empty := startBench(b, "traced"), startBench(b, "empty")
	const (
		comparison = "package mixerauthz\nallow { input.subject.user == \"alice\" }"
		// Errors in built-ins of this version end the evaluation, so that it is not evaluated partially.
		fallible = "package mixerauthz\ndefault allow = false\nallow { lower(input.subject.user) == \"alice\"; startswith(input.action.path, \"/bookings\") }"
	)
	users := func(name string) [][]byte {
		calls := make([][]byte, 5*calls)
		params := mixertest.Params(regoParams(name, strings.Replace(bucketAdmins, "rule.users[_]", "rule.users[_]; input.action.path != \"/\"", 1)))
		for i := range calls {
			request := mixertest.Request(params, "abc")
			request.Instance.Action.Path = fmt.Sprintf("/bookings/%d", i)
			calls[i] = mixertest.Bytes(request)
		}
		return calls
	}
	variants := []*variant{
		{name: "empty", server: empty, calls: one(keyParams("key", "abc"))},
		{name: "header", server: tollgate, calls: one(keyParams("key", "abc"))},
		{name: "header-traced", server: traced, calls: one(keyParams("key", "abc"))},
		{name: "rego", server: tollgate, calls: one(regoParams("rego", comparison))},
		{name: "rego-first", server: forgetful, calls: one(regoParams("rego", comparison))},
		{name: "rules", server: tollgate, calls: one(regoParams("rules", bucketAdmins))},
		{name: "rules-first", server: forgetful, calls: one(regoParams("rules", bucketAdmins))},
		{name: "rules-miss", server: tollgate, calls: users("miss")},
		{name: "fallible", server: tollgate, calls: one(regoParams("fallible", fallible))},
		{name: "fallible-first", server: forgetful, calls: one(regoParams("fallible", fallible))},
	}
	for _, v := range variants {
		v.server.load(b, v.calls, &v.sent, calls/10)
	}
	for b.Loop() {
		for _, v := range variants {
			before := v.server.cpu(b)
			v.server.load(b, v.calls, &v.sent, calls)
			v.micros = append(v.micros, (v.server.cpu(b)-before)/calls)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(variants[0].micros), "empty-CPU-µs/call")
	for _, v := range variants[1:] {
		ratios := make([]float64, len(v.micros))
		for i := range ratios {
			ratios[i] = v.micros[i] / variants[0].micros[i]
		}
		b.ReportMetric(median(ratios), v.name+"/empty")
	}
}

func one(params *configpb.Params) [][]byte { return [][]byte{mixertest.Call(params, "abc")} }

func median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// benchProcess is a server in a process of its own.
type benchProcess struct {
	input       io.Writer
	output      *bufio.Scanner
	connections []*grpc.ClientConn
}

func startBench(b *testing.B, kind string) *benchProcess {
	b.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), benchServer+"="+kind)
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	require.NoError(b, err)
	output, err := command.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, command.Start())
	b.Cleanup(func() {
		input.Close()
		require.NoError(b, command.Wait())
	})
	p := &benchProcess{input: input, output: bufio.NewScanner(output)}
	address := p.line(b)
	p.connections = []*grpc.ClientConn{dial(b, address), dial(b, address)}
	return p
}

func (p *benchProcess) line(b *testing.B) string {
	b.Helper()
	require.True(b, p.output.Scan(), "the server ended")
	return p.output.Text()
}

// cpu returns the microseconds of CPU that the server has used.
func (p *benchProcess) cpu(b *testing.B) float64 {
	b.Helper()
	_, err := io.WriteString(p.input, "\n")
	require.NoError(b, err)
	micros, err := strconv.ParseFloat(p.line(b), 64)
	require.NoError(b, err)
	return micros
}

// load makes calls from 32 callers over two connections: of the given ones in turn, going on where sent is.
func (p *benchProcess) load(b *testing.B, of [][]byte, sent *atomic.Int64, calls int64) {
	b.Helper()
	var (
		made    atomic.Int64
		callers sync.WaitGroup
		wrong   atomic.Pointer[string]
	)
	for caller := range 32 {
		callers.Go(func() {
			for made.Add(1) <= calls {
				call := of[sent.Add(1)%int64(len(of))]
				result, err := mixertest.Send(context.Background(), p.connections[caller%2], call)
				if err != nil || result.Status.Code != 0 {
					wrong.Store(pointer(fmt.Sprintf("%v %v", result, err)))
				}
			}
		})
	}
	callers.Wait()
	if text := wrong.Load(); text != nil {
		b.Fatal(*text)
	}
}

// serveBench serves until standard input ends, and answers each line of it with the CPU used so far.
func serveBench(kind string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var (
		address string
		ended   = make(chan error, 1)
	)
	if kind == "empty" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		address = listener.Addr().String()
		server := emptyServer()
		context.AfterFunc(ctx, server.Stop)
		go func() { ended <- server.Serve(listener) }()
	} else {
		s := settings.Default()
		s.Listen, s.Admin = "127.0.0.1:0", ""
		switch kind {
		case "forgetful":
			s.Limits.DecisionCache.Bytes = 0
		case "traced":
			s.Traces.OTLP = &settings.OTLPSink{Endpoint: "127.0.0.1:9"} // nobody is there
		}
		logger, err := observe.NewLogger(io.Discard, s.Log.Level, s.Log.Format)
		if err != nil {
			panic(err)
		}
		TuneMemory(logger)
		a, err := New(ctx, s, "bench", logger)
		if err != nil {
			panic(err)
		}
		address = a.Address()
		go func() { ended <- a.Run(ctx) }()
	}
	out := os.Stdout
	fmt.Fprintln(out, address)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			panic(err)
		}
		fmt.Fprintln(out, (usage.Utime.Nano()+usage.Stime.Nano())/1000)
	}
	cancel()
	<-ended
}

// emptyServer answers every call with the same allow.
func emptyServer() *grpc.Server {
	reply, err := (&v1beta1.CheckResult{ValidDuration: 5e9, ValidUseCount: 10_000}).Marshal()
	if err != nil {
		panic(err)
	}
	service, method, _ := strings.Cut(strings.TrimPrefix(mixertest.Method, "/"), "/")
	server := grpc.NewServer(grpc.ForceServerCodecV2(mixertest.Raw{}))
	server.RegisterService(&grpc.ServiceDesc{ServiceName: service, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: method,
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var call []byte
			if err := decode(&call); err != nil {
				return nil, err
			}
			return reply, nil
		},
	}}}, nil)
	return server
}

// The empty handler is what everything is measured against, so it must be a server that answers.
func TestEmptyServerAnswers(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := emptyServer()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	result, err := mixertest.Send(t.Context(), dial(t, listener.Addr().String()), mixertest.Call(&configpb.Params{}, ""))
	require.NoError(t, err)
	require.Zero(t, result.Status.Code)
	require.EqualValues(t, 10_000, result.ValidUseCount)
	server.Stop()
	require.NoError(t, <-ended)
}
