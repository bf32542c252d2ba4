package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	logsservice "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	metricsservice "go.opentelemetry.io/proto/slim/otlp/collector/metrics/v1"
	traceservice "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// fakeCollector takes OTLP, and answers as it is told.
type fakeCollector struct {
	// answer decides about a request, the bytes of which were size before decompression; nil takes all.
	answer func(r *received) (proto.Message, error)
	// refuse does the same for HTTP, with a response of its own, if it returns true.
	refuse func(w http.ResponseWriter, r *http.Request) bool

	mu  sync.Mutex
	got []*received
}

// received is a request with how it came.
type received struct {
	signal   signal
	message  proto.Message
	headers  map[string][]string
	encoding string
}

func (f *fakeCollector) take(r *received) (proto.Message, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, r)
	if f.answer != nil {
		return f.answer(r)
	}
	return emptyAnswer(r.signal), nil
}

func (f *fakeCollector) all() []*received {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.got
}

// ids counts the log records and spans that came, by their records' ids.
func (f *fakeCollector) ids() map[string]int {
	count := map[string]int{}
	add := func(list []*commonpb.KeyValue) { count[list[0].GetValue().GetStringValue()]++ }
	for _, r := range f.all() {
		switch m := r.message.(type) {
		case *logsservice.ExportLogsServiceRequest:
			for _, l := range m.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords() {
				add(l.GetAttributes())
			}
		case *traceservice.ExportTraceServiceRequest:
			for _, s := range m.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans() {
				add(s.GetAttributes())
			}
		}
	}
	return count
}

func emptyRequest(s signal) proto.Message {
	return [...]proto.Message{&logsservice.ExportLogsServiceRequest{}, &traceservice.ExportTraceServiceRequest{}, &metricsservice.ExportMetricsServiceRequest{}}[s]
}

func emptyAnswer(s signal) proto.Message {
	return [...]proto.Message{&logsservice.ExportLogsServiceResponse{}, &traceservice.ExportTraceServiceResponse{}, &metricsservice.ExportMetricsServiceResponse{}}[s]
}

// rejecting is an answer that rejects so many items.
func rejecting(s signal, items int64, message string) proto.Message {
	return [...]proto.Message{
		&logsservice.ExportLogsServiceResponse{PartialSuccess: &logsservice.ExportLogsPartialSuccess{RejectedLogRecords: items, ErrorMessage: message}},
		&traceservice.ExportTraceServiceResponse{PartialSuccess: &traceservice.ExportTracePartialSuccess{RejectedSpans: items, ErrorMessage: message}},
		&metricsservice.ExportMetricsServiceResponse{PartialSuccess: &metricsservice.ExportMetricsPartialSuccess{RejectedDataPoints: items, ErrorMessage: message}},
	}[s]
}

func signalBy(name string, of func(signal) string) (signal, bool) {
	for _, s := range []signal{logs, traces, metrics} {
		if of(s) == name {
			return s, true
		}
	}
	return 0, false
}

// serveGRPC serves the fake by gRPC and returns its address.
func (f *fakeCollector) serveGRPC(t *testing.T, options ...grpc.ServerOption) string {
	t.Helper()
	encodings := &fakeStats{}
	server := grpc.NewServer(append(options, grpc.StatsHandler(encodings), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		name, _ := grpc.MethodFromServerStream(stream)
		signal, ok := signalBy(name, signal.method)
		if !ok {
			return errors.New("no such method")
		}
		m := emptyRequest(signal)
		if err := stream.RecvMsg(m); err != nil {
			return err
		}
		headers, _ := metadata.FromIncomingContext(stream.Context())
		answer, err := f.take(&received{signal: signal, message: m, headers: headers, encoding: encodings.last()})
		if err != nil {
			return err
		}
		return stream.SendMsg(answer)
	}))...)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go server.Serve(listener) //nolint:errcheck // its end shows in what is not answered
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// fakeStats remembers the last call's compression, which gRPC keeps from handlers.
type fakeStats struct {
	mu       sync.Mutex
	encoding string
}

func (f *fakeStats) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.encoding
}

func (f *fakeStats) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (f *fakeStats) HandleRPC(_ context.Context, s stats.RPCStats) {
	if header, ok := s.(*stats.InHeader); ok {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.encoding = header.Compression
	}
}

func (f *fakeStats) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (f *fakeStats) HandleConn(context.Context, stats.ConnStats)                       {}

func (f *fakeCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if f.refuse != nil && f.refuse(w, r) {
		return
	}
	encoding := r.Header.Get("Content-Encoding")
	if encoding == "gzip" {
		unzip, err := gzip.NewReader(bytes.NewReader(body))
		if err == nil {
			body, err = io.ReadAll(unzip)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	signal, ok := signalBy(strings.TrimPrefix(r.URL.Path, "/base"), signal.path)
	if !ok || r.Method != http.MethodPost || r.Header.Get("Content-Type") != contentType {
		http.NotFound(w, r)
		return
	}
	m := emptyRequest(signal)
	if err := proto.Unmarshal(body, m); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := f.take(&received{signal: signal, message: m, headers: r.Header, encoding: encoding})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	raw, _ := proto.Marshal(answer)
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(raw)
}

// serveHTTP serves the fake by HTTP and returns its URL.
func (f *fakeCollector) serveHTTP(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return server.URL
}

// serve serves the fake by a protocol, and returns the options of a sink for it.
func (f *fakeCollector) serve(t *testing.T, protocol string) Options {
	t.Helper()
	if protocol == protocolHTTP {
		return Options{Protocol: protocol, Endpoint: f.serveHTTP(t)}
	}
	return Options{Protocol: protocol, Endpoint: f.serveGRPC(t)}
}

func newSink(t *testing.T, o Options) *Sink {
	t.Helper()
	s, err := New(o, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.WithoutCancel(t.Context()))) })
	return s
}

func deliver(t *testing.T, s *Sink, batch []record.Record) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	return s.Deliver(ctx, batch)
}

// outcome says in a word or two what a lane makes of an answer.
func outcome(err error) string {
	u, ok := errors.AsType[*report.Undelivered](err)
	switch {
	case err == nil:
		return "delivered"
	case !ok:
		return "retryable"
	case u.Permanent:
		return "permanent"
	case u.After > 0:
		return "throttled"
	default:
		return "retryable"
	}
}

// fakeAuthority writes a CA's certificate to a file, and returns its name and a server's certificate that it signed.
func fakeAuthority(t *testing.T) (file string, certificate tls.Certificate) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
		require.NoError(t, err)
		return der
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		return key
	}
	until := time.Now().Add(time.Hour)
	caKey, key := newKey(), newKey()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: until, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"collector"}}
	file = filepath.Join(t.TempDir(), "ca.pem")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sign(ca, ca, caKey, caKey)})
	require.NoError(t, os.WriteFile(file, content, 0o600))
	return file, tls.Certificate{Certificate: [][]byte{sign(leaf, ca, key, caKey)}, PrivateKey: key}
}

func (f *fakeCollector) serveTLS(t *testing.T, protocol string, certificate tls.Certificate) string {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	if protocol == protocolGRPC {
		return f.serveGRPC(t, grpc.Creds(credentials.NewTLS(config)))
	}
	server := httptest.NewUnstartedServer(f)
	server.TLS = config
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}
