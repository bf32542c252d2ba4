// Package checks measures Tollgate's Rego checks beside opa-envoy-plugin: the same policy, from the same generator, in alternation.
package checks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/bench/servers"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// What can be set from outside.
const (
	roundsEnv = "TOLLGATE_ROUNDS" // 7
	callsEnv  = "TOLLGATE_CALLS"  // of a round: 10000
)

const connections, callers = 2, 32

// patient keeps a machine that is busy with other work from making timeouts of calls.
const patient = "evaluation_timeout: 10s\n"

// The policies say the same of what is the same in both requests. Tollgate's is as it comes from Mixer's opa adapter, and not the faster for it.
const (
	ours = `package authz
policy = [{"rule": {"verbs": ["GET"], "users": ["alice"]}}]
default allow = false
allow = true {
	rule = policy[_].rule
	input.subject.user = rule.users[_]
	input.action.method = rule.verbs[_]
}`
	theirs = `package authz
policy := [{"rule": {"verbs": ["GET"], "users": ["alice"]}}]
default allow := false
allow if {
	rule := policy[_].rule
	input.attributes.request.http.headers["x-user"] == rule.users[_]
	input.attributes.request.http.method == rule.verbs[_]
}`
)

// target is a server that is measured.
type target struct {
	name        string
	server      *servers.Server
	method      string
	call        []byte
	allowed     func(reply []byte) bool
	connections []*grpc.ClientConn
}

func TestChecks(t *testing.T) {
	rounds, calls := number(t, roundsEnv, 7), number(t, callsEnv, 10_000)
	targets := []*target{
		newOPA(t),
		newTollgate(t, "Tollgate, first time", "limits: {decision_cache: {bytes: 0}}\n"),
		newTollgate(t, "Tollgate, repeated", ""),
	}
	for _, target := range targets {
		target.round(t, calls)
	}
	micros := make([][]float64, len(targets))
	for n := range rounds {
		for i := range targets {
			if n%2 == 1 {
				i = len(targets) - 1 - i
			}
			micros[i] = append(micros[i], targets[i].round(t, calls))
		}
	}
	table := tabwriter.NewWriter(t.Output(), 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\n%d rounds of %d calls, %d at once on %d connections; medians\n\tCPU ratio to %s\tlowest\thighest\tµs/call\t\n", rounds, calls, callers, connections, targets[0].name)
	for i, target := range targets {
		ratios := make([]float64, rounds)
		for n := range ratios {
			ratios[n] = micros[i][n] / micros[0][n]
		}
		slices.Sort(ratios)
		slices.Sort(micros[i])
		fmt.Fprintf(table, "%s\t%.3f\t%.3f\t%.3f\t%.1f\t\n", target.name, ratios[rounds/2], ratios[0], ratios[rounds-1], micros[i][rounds/2])
	}
	require.NoError(t, table.Flush())
}

func newTollgate(t *testing.T, name, settings string) *target {
	t.Helper()
	params := &configpb.Params{Name: "authz", Policy: []string{ours}, CheckMethod: proto.String("data.authz.allow")}
	return connect(t, &target{
		name: name, server: servers.Tollgate(t, patient+settings), method: mixertest.Method, call: mixertest.Call(params, "abc"),
		// CheckResult.status is absent where its code is OK.
		allowed: func(reply []byte) bool { return code(reply, 1) == 0 },
	})
}

func newOPA(t *testing.T) *target {
	t.Helper()
	return connect(t, &target{
		name: "opa-envoy-plugin", server: servers.OPAEnvoy(t, theirs, "authz/allow"), method: "/envoy.service.auth.v3.Authorization/Check", call: envoyCall(),
		allowed: func(reply []byte) bool { return code(reply, 1) == 0 },
	})
}

func connect(t *testing.T, g *target) *target {
	t.Helper()
	for range connections {
		connection, err := grpc.NewClient(g.server.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(t, err)
		t.Cleanup(func() { connection.Close() })
		g.connections = append(g.connections, connection)
	}
	return g
}

// round makes calls as fast as answers come and returns the server's CPU for each, in microseconds. An answer that is no allow ends the run.
func (g *target) round(t *testing.T, calls int) float64 {
	t.Helper()
	begin := g.server.CPU(t)
	errs := make([]error, callers)
	var made atomic.Int64
	var group sync.WaitGroup
	for caller := range callers {
		group.Go(func() {
			for made.Add(1) <= int64(calls) && errs[caller] == nil {
				var reply []byte
				errs[caller] = g.connections[caller%connections].Invoke(context.Background(), g.method, g.call, &reply, grpc.ForceCodecV2(mixertest.Raw{}))
				if errs[caller] == nil && !g.allowed(reply) {
					errs[caller] = fmt.Errorf("%s did not allow the call: %q", g.name, reply)
				}
			}
		})
	}
	group.Wait()
	require.NoError(t, errors.Join(errs...), g.name)
	return float64((g.server.CPU(t) - begin).Microseconds()) / float64(calls)
}

// code returns the code of the google.rpc.Status that stands in a field of a message; 0 where there is none, -1 where it cannot be read.
func code(message []byte, field protowire.Number) int64 {
	status := member(message, field)
	for len(status) > 0 {
		number, typ, n := protowire.ConsumeTag(status)
		if n < 0 {
			return -1
		}
		if number == 1 && typ == protowire.VarintType {
			value, _ := protowire.ConsumeVarint(status[n:])
			return int64(value)
		}
		status = status[n+max(protowire.ConsumeFieldValue(number, typ, status[n:]), 1):]
	}
	return 0
}

func member(message []byte, field protowire.Number) []byte {
	for len(message) > 0 {
		number, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return message
		}
		if number == field && typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message[n:])
			return value
		}
		message = message[n+max(protowire.ConsumeFieldValue(number, typ, message[n:]), 1):]
	}
	return nil
}

// envoyCall is an envoy.service.auth.v3.CheckRequest with what the call to Tollgate has.
func envoyCall() []byte {
	text := func(field protowire.Number, text string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, field, protowire.BytesType), text)
	}
	nested := func(field protowire.Number, parts ...[]byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), slices.Concat(parts...))
	}
	header := func(name, value string) []byte { return nested(3, text(1, name), text(2, value)) }
	http := nested(2, text(1, "12"), text(2, "GET"), header("x-user", "alice"), header("x-custom-token", "abc"), text(4, "/bookings/1"), text(5, "bookings.default"),
		text(6, "http"), text(11, "HTTP/1.1"))
	return nested(1, nested(4, http))
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	require.Positive(t, n, name)
	return n
}
