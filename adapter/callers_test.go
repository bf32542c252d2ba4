package adapter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/transport/testca"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// Who calls is in the records of reports and decisions; who is not known gets no answer but from health.
func TestCallersAreKnown(t *testing.T) {
	const mixer = "spiffe://cluster.local/ns/istio-system/sa/istio-mixer-service-account"
	authority, err := testca.New()
	require.NoError(t, err)
	own, err := authority.Pair()
	require.NoError(t, err)
	pair, err := authority.Issue(testca.Leaf{Names: []string{mixer, "127.0.0.1"}, NotAfter: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	directory := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(directory, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	s := start(t, func(s *settings.Settings) {
		toFiles(s, directory, "main")
		s.TLS.Cert, s.TLS.Key, s.TLS.ClientCA = file("crt", pair.Cert), file("key", pair.Key), file("ca", own.Cert)
		s.TLS.ClientNames = []string{"spiffe://cluster.local/ns/istio-system/sa/*"}
		s.Secrets.Files = map[string]string{"tokens": file("tokens", []byte("planted-token"))}
		s.Secrets.Directory = t.TempDir()
		s.Callers = map[string]settings.Caller{"edge": {Bearer: "tokens"}, "later": {Bearer: "tokenz"}}
	})
	client := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	require.True(t, client.RootCAs.AppendCertsFromPEM(own.Cert))
	certified := client.Clone()
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	require.NoError(t, err)
	certified.Certificates = []tls.Certificate{certificate}

	params := keyParams("shop", "abc")
	params.DecisionLog = &configpb.DecisionLog{Record: configpb.DecisionLog_ALL}
	call, reports := mixertest.Call(params, "abc"), mixertest.LogEntries(mixertest.Params(params), mixertest.LogEntry(nil))
	both := func(ctx context.Context, connection *grpc.ClientConn) (check, report error) {
		_, check = mixertest.Send(ctx, connection, call)
		return check, mixertest.SendReport(ctx, connection, mixertest.LogEntryMethod, reports)
	}
	connect := func(config *tls.Config) *grpc.ClientConn {
		connection, err := grpc.NewClient("passthrough:///"+s.Address(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
		require.NoError(t, err)
		t.Cleanup(func() { connection.Close() })
		return connection
	}
	byToken := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer planted-token")
	anonymous := connect(client)
	for _, c := range []struct {
		ctx        context.Context
		connection *grpc.ClientConn
		code       codes.Code
	}{
		{t.Context(), connect(certified), codes.OK},
		{byToken, anonymous, codes.OK},
		{t.Context(), anonymous, codes.Unauthenticated},
	} {
		check, report := both(c.ctx, c.connection)
		assert.Equal(t, c.code, status.Code(check), "%v", check)
		assert.Equal(t, c.code, status.Code(report), "%v", report)
	}

	_, err = healthpb.NewHealthClient(anonymous).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	for ctx, code := range map[context.Context]codes.Code{t.Context(): codes.Unauthenticated, byToken: codes.OK} {
		ctx, cancel := context.WithCancel(ctx)
		stream, err := reflectionpb.NewServerReflectionClient(anonymous).ServerReflectionInfo(ctx)
		require.NoError(t, err)
		// A stream that was refused says so at the end only.
		_ = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
		_, err = stream.Recv()
		assert.Equal(t, code, status.Code(err))
		cancel()
	}

	code, metrics := s.get(t, "/metrics")
	require.Equal(t, http.StatusOK, code)
	assert.Contains(t, metrics, `tollgate_refused_total{reason="no_credential"} 3`)
	assert.Contains(t, metrics, `tollgate_certificate_expiry_seconds{file="tls.cert"}`)
	assert.Contains(t, metrics, `tollgate_connections 2`)
	require.NoError(t, s.end(t))
	callers := map[any]map[any]int{}
	for _, line := range lines(t, filepath.Join(directory, "main.jsonl")) {
		if callers[line["kind"]] == nil {
			callers[line["kind"]] = map[any]int{}
		}
		callers[line["kind"]][line["caller"]]++
	}
	assert.Equal(t, map[any]map[any]int{"logentry": {mixer: 1, "edge": 1}, "decision": {mixer: 1, "edge": 1}}, callers)
	assert.Contains(t, s.log.String(), `"msg":"a caller was refused","reason":"no_credential"`)
	warning := `"msg":"a caller's secret has no file; its calls are refused until there is one",`
	assert.Equal(t, 1, strings.Count(s.log.String(), warning))
	assert.Contains(t, s.log.String(), warning+`"caller":"later","secret":"tokenz"`)
	assert.NotContains(t, s.log.String(), "planted")
}
