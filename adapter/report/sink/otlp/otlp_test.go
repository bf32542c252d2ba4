package otlp

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metricsservice "go.opentelemetry.io/proto/slim/otlp/collector/metrics/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

var protocols = []string{protocolGRPC, protocolHTTP}

func TestValidate(t *testing.T) {
	valid := Options{Endpoint: "collector:4317"}
	for name, c := range map[string]struct {
		change func(o *Options)
		want   string // "" for valid
	}{
		"grpc":                  {func(*Options) {}, ""},
		"IPv6":                  {func(o *Options) { o.Endpoint = "[::1]:4317" }, ""},
		"http":                  {func(o *Options) { o.Protocol, o.Endpoint = "http", "http://collector:4318/otlp" }, ""},
		"https":                 {func(o *Options) { o.Protocol, o.Endpoint, o.TLS.CA = "http", "https://collector", "ca.pem" }, ""},
		"no endpoint":           {func(o *Options) { o.Endpoint = "" }, `endpoint is ""`},
		"URL for grpc":          {func(o *Options) { o.Endpoint = "http://collector:4317" }, "endpoint is"},
		"no port":               {func(o *Options) { o.Endpoint = "collector" }, "host:port"},
		"port 0":                {func(o *Options) { o.Endpoint = "collector:0" }, "host:port"},
		"no URL":                {func(o *Options) { o.Protocol = "http" }, "is a URL"},
		"query":                 {func(o *Options) { o.Protocol, o.Endpoint = "http", "http://a/?b=c" }, "without user and query"},
		"password":              {func(o *Options) { o.Protocol, o.Endpoint = "http", "http://user:secret@a" }, `endpoint is "***@a"`},
		"http with TLS":         {func(o *Options) { o.Protocol, o.Endpoint, o.TLS.Enabled = "http", "http://a", true }, "tls.enabled is true"},
		"protocol":              {func(o *Options) { o.Protocol = "udp" }, `protocol is "udp"`},
		"compression":           {func(o *Options) { o.Compression = "zstd" }, `compression is "zstd"`},
		"header's name":         {func(o *Options) { o.Headers = map[string]string{"a b": ""} }, `headers: "a b" is no name`},
		"the protocol's header": {func(o *Options) { o.Headers = map[string]string{"Content-Type": "a"} }, "is the protocol's own"},
		"gRPC's header":         {func(o *Options) { o.Headers = map[string]string{"grpc-timeout": "a"} }, "is the protocol's own"},
		"header's value":        {func(o *Options) { o.Headers = map[string]string{"tenant": "tén"} }, `the value of "tenant"`},
		"two credentials": {func(o *Options) {
			o.Headers, o.Credential.File = map[string]string{"Authorization": "x"}, "token"
		}, `"Authorization" is the credential's`},
		"credential's header": {func(o *Options) { o.CredentialHeader, o.Credential.File = "te", "token" }, "credential_header: "},
		"resource":            {func(o *Options) { o.Resource = map[string]string{"a": "\xff"} }, "resource: "},
		"TLS":                 {func(o *Options) { o.TLS.CA = "ca.pem" }, "tls.ca"},
	} {
		t.Run(name, func(t *testing.T) {
			o := valid
			c.change(&o)
			err := o.Validate()
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			assert.NotContains(t, err.Error(), "secret")
			_, err = New(o, slog.New(slog.DiscardHandler))
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestAllKindsArrive(t *testing.T) {
	for _, protocol := range protocols {
		for _, compression := range []string{"", compressionNone} {
			t.Run(protocol+compression, func(t *testing.T) {
				var f fakeCollector
				o := f.serve(t, protocol)
				o.Compression, o.Headers = compression, map[string]string{"x-tenant": "a"}
				s := newSink(t, o)
				batch := mixed(t)
				require.NoError(t, deliver(t, s, batch))
				got := f.all()
				require.Len(t, got, signals)
				for i, r := range got {
					assert.Equal(t, signal(i), r.signal, "metrics are last")
					assert.Equal(t, compression == "", r.encoding == "gzip")
					assert.Equal(t, []string{"a"}, append(r.headers["x-tenant"], r.headers["X-Tenant"]...))
				}
				for i := range batch {
					if batch[i].Kind != record.KindMetric {
						assert.Equal(t, 1, f.ids()[batch[i].ID()])
					}
				}
			})
		}
	}
}

func TestBadRecordsAreRefusedAlone(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			var f fakeCollector
			s := newSink(t, f.serve(t, protocol))
			batch := mixed(t)
			good := len(batch)
			batch = append(batch, newBatch(t, record.KindMetric, sample{raw: metricOf("a")}, sample{raw: metricOf("b", text("1"))})...)
			batch = append(batch, newBatch(t, record.KindTraceSpan, sample{})...)
			batch = append(batch, record.Record{Kind: 99}, record.Record{Kind: record.KindEdge, Raw: "x"})
			var u *report.Undelivered
			require.ErrorAs(t, deliver(t, s, batch), &u)
			assert.True(t, u.Permanent)
			assert.Equal(t, []int{good, good + 1, good + 2, good + 3, good + 4}, u.Records)
			for _, cause := range []string{"no value", "no number", "trace_id", "unknown kind"} {
				require.ErrorContains(t, u, cause)
			}
			assert.Len(t, f.all(), signals)

			require.ErrorAs(t, deliver(t, s, batch[good:]), &u)
			assert.Len(t, f.all(), signals, "nothing is sent where there is nothing to send")
		})
	}
}

func withDelay(t *testing.T, code codes.Code, delay time.Duration) error {
	t.Helper()
	s, err := status.New(code, "later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	require.NoError(t, err)
	return s.Err()
}

func TestGRPCAnswers(t *testing.T) {
	type answer struct {
		err   error
		want  string
		after time.Duration
	}
	table := map[string]answer{
		"RetryInfo":                    {withDelay(t, codes.ResourceExhausted, 7*time.Second), "throttled", 7 * time.Second},
		"RetryInfo with Unavailable":   {withDelay(t, codes.Unavailable, 7*time.Second), "throttled", 7 * time.Second},
		"RetryInfo of an hour":         {withDelay(t, codes.ResourceExhausted, time.Hour), "throttled", client.MaxRetryAfter},
		"RetryInfo below 0":            {withDelay(t, codes.ResourceExhausted, -time.Hour), "retryable", 0},
		"RetryInfo with what is final": {withDelay(t, codes.InvalidArgument, time.Second), "permanent", 0},
	}
	for _, code := range []codes.Code{
		codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss,
		codes.ResourceExhausted, codes.Unauthenticated, codes.PermissionDenied,
	} {
		table[code.String()] = answer{status.Error(code, "no"), "retryable", 0}
	}
	for _, code := range []codes.Code{
		codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.Unimplemented, codes.Internal, codes.Unknown, 99,
	} {
		table[code.String()] = answer{status.Error(code, "no"), "permanent", 0}
	}
	for name, c := range table {
		t.Run(name, func(t *testing.T) {
			f := fakeCollector{answer: func(*received) (proto.Message, error) { return nil, c.err }}
			s := newSink(t, f.serve(t, protocolGRPC))
			requireAnswer(t, s, c.want, c.after)
			assert.Len(t, f.all(), 1, "the lane tries again, and nobody else")
		})
	}
}

// requireAnswer delivers two log entries and holds the result to what is wanted.
func requireAnswer(t *testing.T, s *Sink, want string, after time.Duration) {
	t.Helper()
	err := deliver(t, s, numbered(t, 2))
	require.Equal(t, want, outcome(err), "%v", err)
	var u *report.Undelivered
	if want == "delivered" {
		return
	}
	require.ErrorAs(t, err, &u)
	assert.InDelta(t, after, u.After, float64(after/2)) // a busy machine comes late to a date
	if want == "permanent" {
		assert.Equal(t, []int{0, 1}, u.Records)
	}
}

func TestHTTPAnswers(t *testing.T) {
	later := func(after time.Duration) string { return time.Now().Add(after).UTC().Format(http.TimeFormat) }
	for name, c := range map[string]struct {
		code       int
		retryAfter string
		mediaType  string
		body       string
		want       string
		after      time.Duration
	}{
		"200":                            {code: 200, want: "delivered"},
		"204":                            {code: 204, want: "delivered"},
		"200 in JSON":                    {code: 200, mediaType: "application/json", body: "{}", want: "delivered"},
		"200 of a web page":              {code: 200, mediaType: "text/html; charset=utf-8", body: "<html>", want: "retryable"},
		"200 with garbage":               {code: 200, mediaType: contentType, body: "\xff", want: "retryable"},
		"302":                            {code: 302, want: "retryable"},
		"307":                            {code: 307, want: "retryable"},
		"400":                            {code: 400, want: "permanent"},
		"401":                            {code: 401, want: "retryable"},
		"403":                            {code: 403, want: "retryable"},
		"404":                            {code: 404, want: "retryable"},
		"405":                            {code: 405, want: "retryable"},
		"408":                            {code: 408, want: "retryable"},
		"413":                            {code: 413, want: "permanent"},
		"415":                            {code: 415, want: "permanent"},
		"422":                            {code: 422, want: "permanent"},
		"429":                            {code: 429, want: "retryable"},
		"429 with seconds":               {code: 429, retryAfter: "30", want: "throttled", after: 30 * time.Second},
		"429 with a date":                {code: 429, retryAfter: later(2 * time.Minute), want: "throttled", after: 2 * time.Minute},
		"429 with a date that is over":   {code: 429, retryAfter: later(-time.Hour), want: "retryable"},
		"429 with a year":                {code: 429, retryAfter: "31536000", want: "throttled", after: client.MaxRetryAfter},
		"429 with more than a number":    {code: 429, retryAfter: "18446744073709551615", want: "throttled", after: client.MaxRetryAfter},
		"429 with a negative number":     {code: 429, retryAfter: "-1", want: "retryable"},
		"429 with a distant date":        {code: 429, retryAfter: later(24 * time.Hour), want: "throttled", after: client.MaxRetryAfter},
		"500":                            {code: 500, want: "retryable"},
		"502":                            {code: 502, want: "retryable"},
		"503":                            {code: 503, want: "retryable"},
		"503 with seconds":               {code: 503, retryAfter: "3", want: "throttled", after: 3 * time.Second},
		"504":                            {code: 504, want: "retryable"},
		"Retry-After with what is final": {code: 400, retryAfter: "3", want: "permanent"},
	} {
		t.Run(name, func(t *testing.T) {
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests++
				w.Header().Set("Location", "/elsewhere")
				w.Header().Set("Content-Type", c.mediaType)
				if c.retryAfter != "" {
					w.Header().Set("Retry-After", c.retryAfter)
				}
				w.WriteHeader(c.code)
				fmt.Fprint(w, c.body)
			}))
			defer server.Close()
			s := newSink(t, Options{Protocol: protocolHTTP, Endpoint: server.URL})
			requireAnswer(t, s, c.want, c.after)
			if c.code == http.StatusRequestEntityTooLarge {
				assert.Equal(t, 3, requests, "both, and each alone")
			} else {
				assert.Equal(t, 1, requests)
			}
		})
	}
}

func TestRefusalsTellWhatTheOtherSideSays(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("s3cret-token\n"), 0o600))
	message := "Bearer s3cret-token of k3y is bad\n" + strings.Repeat("x", 10_000)
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			f := fakeCollector{
				answer: func(*received) (proto.Message, error) { return nil, status.Error(codes.InvalidArgument, message) },
				refuse: func(w http.ResponseWriter, _ *http.Request) bool {
					raw, _ := proto.Marshal(&spb.Status{Message: message})
					w.Header().Set("Content-Type", contentType)
					w.WriteHeader(http.StatusBadRequest)
					_, _ = w.Write(raw)
					return true
				},
			}
			o := f.serve(t, protocol)
			o.Credential.File, o.Headers = token, map[string]string{"x-key": "a-k3y k3y1"}
			err := deliver(t, newSink(t, o), numbered(t, 1))
			require.ErrorContains(t, err, "Bearer *** of k3y is bad")
			assert.NotContains(t, err.Error(), "s3cret")
			assert.NotContains(t, err.Error(), "\n")
			assert.Less(t, len(err.Error()), 512)
		})
	}
}

func TestPartialSuccess(t *testing.T) {
	for _, protocol := range protocols {
		for name, c := range map[string]struct {
			rejected int64
			message  string
			want     string
			counted  uint64
			warned   bool
		}{
			"none":            {0, "", "delivered", 0, false},
			"a warning":       {0, "slow down", "delivered", 0, true},
			"some":            {1, "too old", "delivered", 1, true},
			"all":             {2, "too old", "permanent", 0, false},
			"more than all":   {9, "too old", "permanent", 0, false},
			"a negative some": {-1, "odd", "delivered", 0, true},
		} {
			for _, signal := range []signal{logs, traces, metrics} {
				t.Run(fmt.Sprint(protocol, " ", signal.items(), " ", name), func(t *testing.T) {
					f := fakeCollector{answer: func(r *received) (proto.Message, error) { return rejecting(r.signal, c.rejected, c.message), nil }}
					var out bytes.Buffer
					s, err := New(f.serve(t, protocol), slog.New(slog.NewTextHandler(&out, nil)))
					require.NoError(t, err)
					defer s.Close(t.Context())
					batch := [...][]record.Record{
						numbered(t, 2),
						newBatch(t, record.KindTraceSpan, sample{raw: span()}, sample{raw: span()}),
						newBatch(t, record.KindMetric, sample{raw: metricOf("a", integer(1))}, sample{raw: metricOf("b", integer(1))}, sample{raw: metricOf("b", integer(1))}),
					}[signal]
					err = deliver(t, s, batch)
					assert.Equal(t, c.want, outcome(err), "%v", err)
					if c.want == "permanent" {
						require.ErrorContains(t, err, c.message)
					}
					assert.Equal(t, c.counted, s.Rejected())
					assert.Equal(t, c.warned, strings.Contains(out.String(), c.message) && out.Len() > 0, out.String())
				})
			}
		}
	}
}

// TestTooLarge has a receiver of small requests and a record that is too large even alone.
func TestTooLarge(t *testing.T) {
	const limit = 4 << 10
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			f := fakeCollector{refuse: func(w http.ResponseWriter, r *http.Request) bool {
				if r.ContentLength <= limit {
					return false
				}
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return true
			}}
			o := Options{Protocol: protocol, Compression: compressionNone}
			if protocol == protocolHTTP {
				o.Endpoint = f.serveHTTP(t)
			} else {
				o.Endpoint = f.serveGRPC(t, grpc.MaxRecvMsgSize(limit))
			}
			s := newSink(t, o)
			batch := numbered(t, 100)
			batch[41].Raw = nested(1, entry("much", text(strings.Repeat("x", limit))))
			var u *report.Undelivered
			require.ErrorAs(t, deliver(t, s, batch), &u)
			assert.True(t, u.Permanent)
			assert.Equal(t, []int{41}, u.Records)
			require.ErrorIs(t, u, errTooLarge)
			ids := f.ids()
			for i := range batch {
				want := 1
				if i == 41 {
					want = 0
				}
				assert.Equal(t, want, ids[batch[i].ID()], i)
			}
		})
	}
}

// rest returns the records that an error which is not for good is about: those that a lane delivers again.
func rest(t *testing.T, batch []record.Record, err error) (records []record.Record) {
	t.Helper()
	var u *report.Undelivered
	require.ErrorAs(t, err, &u)
	require.False(t, u.Permanent, "%v", err)
	for _, i := range u.Records {
		records = append(records, batch[i])
	}
	return records
}

// TestWhatWasDeliveredIsTold has a receiver that has no metrics for a while, and one that takes a half and then breaks.
func TestWhatWasDeliveredIsTold(t *testing.T) {
	t.Run("signals", func(t *testing.T) {
		down := true
		f := fakeCollector{answer: func(r *received) (proto.Message, error) {
			if r.signal == metrics && down {
				return nil, status.Error(codes.Unavailable, "no metrics")
			}
			return emptyAnswer(r.signal), nil
		}}
		s := newSink(t, f.serve(t, protocolGRPC))
		batch := append(mixed(t), newBatch(t, record.KindMetric, sample{raw: metricOf("bad")})...)
		for range 3 {
			batch = rest(t, batch, deliver(t, s, batch))
			assert.Len(t, batch, 2, "the metrics")
		}
		down = false
		assert.Equal(t, "permanent", outcome(deliver(t, s, batch)), "the bad one is not forgotten")
		for id, times := range f.ids() {
			assert.Equal(t, 1, times, id)
		}
		require.Len(t, f.all(), 2+4)
		last, ok := f.all()[5].message.(*metricsservice.ExportMetricsServiceRequest)
		require.True(t, ok)
		assert.Len(t, last.GetResourceMetrics()[0].GetScopeMetrics()[0].GetMetrics(), 1)
	})
	t.Run("halves", func(t *testing.T) {
		requests := 0
		f := fakeCollector{refuse: func(w http.ResponseWriter, _ *http.Request) bool {
			requests++
			switch requests {
			case 1:
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return true
			case 3:
				w.WriteHeader(http.StatusBadGateway)
				return true
			}
			return false
		}}
		s := newSink(t, f.serve(t, protocolHTTP))
		batch := numbered(t, 10)
		left := rest(t, batch, deliver(t, s, batch))
		assert.Equal(t, batch[5:], left)
		require.NoError(t, deliver(t, s, left))
		assert.Len(t, f.ids(), 10)
		for id, times := range f.ids() {
			assert.Equal(t, 1, times, id)
		}
	})
}

func TestCredential(t *testing.T) {
	for _, protocol := range protocols {
		for header, want := range map[string]string{"": "Bearer %s", "x-api-key": "%s"} {
			t.Run(protocol+header, func(t *testing.T) {
				var f fakeCollector
				o := f.serve(t, protocol)
				o.Credential = client.Credential{File: filepath.Join(t.TempDir(), "token")}
				o.CredentialHeader = header
				s := newSink(t, o)
				batch := numbered(t, 1)
				err := deliver(t, s, batch)
				assert.Equal(t, "retryable", outcome(err))
				require.ErrorContains(t, err, "credential.file")
				for i, token := range []string{"first", "second", "Basic dGhpcmQ="} {
					require.NoError(t, os.WriteFile(o.Credential.File, []byte(token+"\n"), 0o600))
					require.NoError(t, deliver(t, s, batch))
					name := cmp.Or(header, "authorization")
					headers := f.all()[i].headers
					want := fmt.Sprintf(want, token)
					if strings.Contains(token, " ") { // it says its scheme itself
						want = token
					}
					assert.Equal(t, []string{want}, append(headers[name], headers[http.CanonicalHeaderKey(name)]...))
				}
				require.NoError(t, os.WriteFile(o.Credential.File, []byte("two\nsecrets"), 0o600))
				err = deliver(t, s, batch)
				assert.Equal(t, "retryable", outcome(err))
				assert.NotContains(t, err.Error(), "secrets")
			})
		}
	}
}

func TestTLS(t *testing.T) {
	ca, certificate := fakeAuthority(t)
	other, _ := fakeAuthority(t)
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			var f fakeCollector
			o := Options{Protocol: protocol, Endpoint: f.serveTLS(t, protocol, certificate)}
			for name, c := range map[string]struct {
				tls  client.TLS
				want string
			}{
				"right CA":     {client.TLS{Enabled: true, CA: ca}, "delivered"},
				"right name":   {client.TLS{Enabled: true, CA: ca, ServerName: "collector"}, "delivered"},
				"wrong name":   {client.TLS{Enabled: true, CA: ca, ServerName: "somebody"}, "retryable"},
				"another CA":   {client.TLS{Enabled: true, CA: other}, "retryable"},
				"system's CAs": {client.TLS{Enabled: true}, "retryable"},
				"missing CA":   {client.TLS{Enabled: true, CA: ca + "x"}, "retryable"},
			} {
				t.Run(name, func(t *testing.T) {
					o := o
					o.TLS = c.tls
					err := deliver(t, newSink(t, o), numbered(t, 1))
					assert.Equal(t, c.want, outcome(err), "%v", err)
				})
			}
		})
	}
}

// endpointOf returns what a sink needs for a listener.
func endpointOf(protocol string, listener net.Listener) Options {
	o := Options{Protocol: protocol, Endpoint: listener.Addr().String()}
	if protocol == protocolHTTP {
		o.Endpoint = "http://" + o.Endpoint
	}
	return o
}

// TestConnections has others that break off: each is retryable.
func TestConnections(t *testing.T) {
	for _, protocol := range protocols {
		for name, serve := range map[string]func(net.Conn){
			"accept and drop": func(c net.Conn) { c.Close() },
			"reset": func(c net.Conn) {
				_, _ = c.Read(make([]byte, 1))
				_ = c.(*net.TCPConn).SetLinger(0)
				c.Close()
			},
			"no HTTP": func(c net.Conn) {
				_, _ = c.Read(make([]byte, 1))
				_, _ = io.WriteString(c, "220 mail.example.com ESMTP\r\n")
				c.Close()
			},
		} {
			t.Run(protocol+" "+name, func(t *testing.T) {
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for {
						conn, err := listener.Accept()
						if err != nil {
							return
						}
						serve(conn)
					}
				}()
				s := newSink(t, endpointOf(protocol, listener))
				err = deliver(t, s, mixed(t))
				assert.Equal(t, "retryable", outcome(err), "%v", err)
				listener.Close()
				<-ended
				err = deliver(t, s, mixed(t))
				assert.Equal(t, "retryable", outcome(err), "nobody listens: %v", err)
			})
		}
		t.Run(protocol+" hang", func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer listener.Close()
			s := newSink(t, endpointOf(protocol, listener))
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			err = s.Deliver(ctx, mixed(t))
			assert.Equal(t, "retryable", outcome(err), "%v", err)
			// And not by ctx.Err: a connection has the same deadline, and may tell of it first.
			until, _ := ctx.Deadline()
			assert.False(t, time.Now().Before(until), "it lasts as long as the attempt may")
		})
	}
}

// TestHangInAnAnswer has one that takes the request and says nothing.
func TestHangInAnAnswer(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			f := fakeCollector{answer: func(r *received) (proto.Message, error) {
				cancel()
				<-ctx.Done()
				return emptyAnswer(r.signal), nil
			}}
			s := newSink(t, f.serve(t, protocol))
			assert.Equal(t, "retryable", outcome(s.Deliver(ctx, mixed(t))))
			assert.LessOrEqual(t, len(f.all()), 1, "no more is sent when the time is over")
		})
	}
}

// TestNoGRPC has something between us and the other side that answers in its stead, or resets the stream.
func TestNoGRPC(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"reset":       func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"no trailers": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "application/grpc") },
		"web page":    func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/html") },
		"no type":     func(w http.ResponseWriter, _ *http.Request) { w.Header()["Content-Type"] = nil },
		"HTTP 400":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) },
		"HTTP 404":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"HTTP 500":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"HTTP 503":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"HTTP 429":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"cut in a body": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			_, _ = w.Write([]byte{0, 0, 0, 0, 9})
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(answer)
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
			server.Start()
			defer server.Close()
			s := newSink(t, Options{Endpoint: server.Listener.Addr().String()})
			err := deliver(t, s, numbered(t, 1))
			assert.Equal(t, "retryable", outcome(err), "%v", err)
		})
	}
}

// TestHTTPCutInAnAnswer has a server that takes the request and breaks off within its answer.
func TestHTTPCutInAnAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(100))
		_, _ = w.Write([]byte{0x0a})
	}))
	defer server.Close()
	s := newSink(t, Options{Protocol: protocolHTTP, Endpoint: server.URL})
	assert.Equal(t, "retryable", outcome(deliver(t, s, numbered(t, 1))))
}

// TestAPauseIsForAll has one that asks for a pause: the batch's other signals are not sent into it.
func TestAPauseIsForAll(t *testing.T) {
	f := fakeCollector{answer: func(*received) (proto.Message, error) { return nil, withDelay(t, codes.Unavailable, time.Second) }}
	s := newSink(t, f.serve(t, protocolGRPC))
	assert.Equal(t, "throttled", outcome(deliver(t, s, mixed(t))))
	assert.Len(t, f.all(), 1)
}

func TestBasePath(t *testing.T) {
	var f fakeCollector
	s := newSink(t, Options{Protocol: protocolHTTP, Endpoint: f.serveHTTP(t) + "/base/"})
	require.NoError(t, deliver(t, s, mixed(t)))
	assert.Len(t, f.all(), signals)
}
