package httpsink

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
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
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestValidate(t *testing.T) {
	const planted = "s3cret"
	good := Options{URL: "https://host.test/path"}
	for name, c := range map[string]struct {
		change func(o *Options)
		want   string
	}{
		"least":                 {func(*Options) {}, ""},
		"all":                   {func(o *Options) { *o = full() }, ""},
		"own CA":                {func(o *Options) { o.TLS.CA = "ca" }, ""},
		"no url":                {func(o *Options) { o.URL = "" }, "url is empty"},
		"no such url":           {func(o *Options) { o.URL = "http://h\x00" + planted }, "url cannot be parsed"},
		"scheme":                {func(o *Options) { o.URL = "ftp://host/" + planted }, `url has the scheme "ftp"`},
		"no host":               {func(o *Options) { o.URL = "http:///" + planted }, "url has no host"},
		"user":                  {func(o *Options) { o.URL = "http://u:" + planted + "@host" }, "url has a user"},
		"tls without https":     {func(o *Options) { o.URL, o.TLS.Enabled = "http://host", true }, "tls.enabled is true but url is http"},
		"CA without https":      {func(o *Options) { o.URL, o.TLS.CA = "http://host", "ca" }, `tls.ca is "ca"`},
		"method":                {func(o *Options) { o.Method = "GET" }, `method is "GET"`},
		"compression":           {func(o *Options) { o.Compression = "zstd" }, `compression is "zstd"`},
		"header's name":         {func(o *Options) { o.Headers = map[string]string{"a b": planted} }, `headers has "a b"`},
		"header's value":        {func(o *Options) { o.Headers = map[string]string{"A": planted + "\n"} }, "headers.A has characters"},
		"header of ours":        {func(o *Options) { o.Headers = map[string]string{"content-type": planted} }, `headers has "content-type", which is set`},
		"header twice":          {func(o *Options) { o.Headers = map[string]string{"a": planted, "A": planted} }, `headers has "A" and "a"`},
		"credential twice":      {func(o *Options) { o.Credential.File, o.Headers = "f", map[string]string{"authorization": planted} }, "where the credential goes"},
		"authorization by hand": {func(o *Options) { o.Headers = map[string]string{"Authorization": planted} }, ""},
		"credential's header":   {func(o *Options) { o.CredentialHeader = "a:" }, `credential_header is "a:"`},
		"credential in ours":    {func(o *Options) { o.CredentialHeader = "Host" }, `credential_header is "Host"`},
		"key without cert":      {func(o *Options) { o.TLS.Key = "key" }, `tls.key is "key"`},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			c.change(&o)
			err := o.Validate()
			sink, newErr := New(o, slog.New(slog.DiscardHandler))
			if c.want == "" {
				require.NoError(t, err)
				require.NoError(t, newErr)
				assert.NotNil(t, sink)
				return
			}
			require.ErrorContains(t, err, c.want)
			assert.NotContains(t, err.Error(), planted)
			assert.Equal(t, err, newErr)
		})
	}
	err := Options{Method: "GET", Compression: "zstd"}.Validate()
	require.ErrorContains(t, err, "url is empty")
	require.ErrorContains(t, err, "method")
	require.ErrorContains(t, err, "compression")
}

func full() Options {
	return Options{
		URL: "https://host.test/path", Method: "PUT", Headers: map[string]string{"X-A": "b"},
		Credential: client.Credential{File: "f"}, CredentialHeader: "X-Api-Key",
		TLS: client.TLS{Enabled: true, CA: "ca", Cert: "cert", Key: "key", ServerName: "name"}, Compression: "none",
	}
}

// fakeServer keeps what it answers 200 to.
type fakeServer struct {
	*httptest.Server

	mu       sync.Mutex
	requests []*http.Request
	lines    []string // of all requests, as they came
	taken    map[string]int
}

// serve answers as told; 0 or no answer means 200.
func serve(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, ids []string) (status int)) *fakeServer {
	t.Helper()
	f := &fakeServer{taken: map[string]int{}}
	f.Server = httptest.NewServer(f.handler(t, answer))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeServer) handler(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, ids []string) (status int)) http.Handler {
	t.Helper()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lines, err := readLines(r)
		if !assert.NoError(t, err) {
			return
		}
		var ids []string
		for _, line := range lines {
			var named struct {
				ID string `json:"id"`
			}
			assert.NoError(t, json.Unmarshal([]byte(line), &named))
			ids = append(ids, named.ID)
		}
		f.mu.Lock()
		f.requests = append(f.requests, r)
		f.lines = append(f.lines, lines...)
		f.mu.Unlock()
		status := 0
		if answer != nil {
			status = answer(w, r, ids)
		}
		if status = cmp.Or(status, http.StatusOK); status < 300 {
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, id := range ids {
				f.taken[id]++
			}
		}
		w.WriteHeader(status)
		if status >= 400 {
			_, _ = io.WriteString(w, "s3cret")
		}
	})
}

func readLines(r *http.Request) (lines []string, err error) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			return nil, err
		}
	}
	content, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if !bytes.HasSuffix(content, []byte("\n")) {
		return nil, errors.New("the last line has no end")
	}
	return strings.Split(strings.TrimSuffix(string(content), "\n"), "\n"), nil
}

func (f *fakeServer) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests)
}

func open(t *testing.T, o Options) *Sink {
	t.Helper()
	sink, err := New(o, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sink.Close(context.Background())) })
	return sink
}

// field is a field of a protobuf message.
func field(number protowire.Number, content string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), content))
}

func entry(severity string) string {
	const severityField, nameField = 3, 72295727
	return field(severityField, severity) + field(nameField, "accesslog.instance.istio-system")
}

func batch(n int) []record.Record {
	records := make([]record.Record, n)
	for i := range records {
		records[i] = record.Record{
			Spool: record.SpoolID{1}, Sequence: 7, Index: i, Kind: record.KindLogEntry, Handler: "bookinfo",
			Arrived: time.Unix(1_795_262_400, 0), Raw: entry("info"),
		}
	}
	return records
}

func TestRequest(t *testing.T) {
	credential := filepath.Join(t.TempDir(), "token")
	for name, c := range map[string]struct {
		options    Options
		credential string
		method     string
		want       map[string]string
	}{
		"defaults": {Options{}, "", http.MethodPost, map[string]string{
			"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip", "Authorization": "", "Expect": "",
		}},
		"put, plain": {Options{Method: "PUT", Compression: "none"}, "", http.MethodPut, map[string]string{"Content-Encoding": ""}},
		"headers":    {Options{Headers: map[string]string{"x-scope-orgid": "tenant"}}, "", http.MethodPost, map[string]string{"X-Scope-Orgid": "tenant"}},
		"bearer":     {Options{Credential: client.Credential{File: credential}}, "t0ken\n", http.MethodPost, map[string]string{"Authorization": "Bearer t0ken"}},
		"a scheme":   {Options{Credential: client.Credential{File: credential}}, "Splunk t0ken", http.MethodPost, map[string]string{"Authorization": "Splunk t0ken"}},
		"own header": {Options{Credential: client.Credential{File: credential}, CredentialHeader: "X-Api-Key"}, "t0ken", http.MethodPost, map[string]string{"X-Api-Key": "t0ken", "Authorization": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(credential, []byte(c.credential), 0o600))
			server := serve(t, nil)
			c.options.URL = server.URL + "/in?x=y"
			records := batch(3)
			require.NoError(t, open(t, c.options).Deliver(t.Context(), records))

			request := server.requests[0]
			assert.Equal(t, c.method, request.Method)
			assert.Equal(t, "/in?x=y", request.RequestURI)
			for header, want := range c.want {
				assert.Equal(t, want, request.Header.Get(header), header)
			}
			require.Len(t, server.lines, 3)
			for i := range records {
				want, err := record.AppendJSON(nil, &records[i])
				require.NoError(t, err)
				assert.Equal(t, string(want), server.lines[i])
			}
		})
	}
}

func TestCredentialIsReadForEveryRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	server := serve(t, nil)
	sink := open(t, Options{URL: server.URL, Credential: client.Credential{File: file}})
	require.ErrorIs(t, sink.Deliver(t.Context(), batch(1)), os.ErrNotExist)
	for i, token := range []string{"one", "two"} {
		require.NoError(t, os.WriteFile(file, []byte(token), 0o600))
		require.NoError(t, sink.Deliver(t.Context(), batch(1)))
		assert.Equal(t, "Bearer "+token, server.requests[i].Header.Get("Authorization"))
	}
	require.NoError(t, os.WriteFile(file, []byte("s3cret\r\ninjected: yes"), 0o600))
	err := sink.Deliver(t.Context(), batch(1))
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "s3cret")
}

func TestIdempotencyKey(t *testing.T) {
	server := serve(t, nil)
	sink := open(t, Options{URL: server.URL})
	other := batch(3)
	other[0].Sequence++
	for _, records := range [][]record.Record{batch(3), batch(3), batch(2), other} {
		require.NoError(t, sink.Deliver(t.Context(), records))
	}
	var keys []string
	for _, r := range server.requests {
		keys = append(keys, r.Header.Get(headerIdempotency))
	}
	assert.Len(t, keys[0], 32)
	assert.Equal(t, keys[0], keys[1])
	assert.NotEqual(t, keys[0], keys[2])
	assert.NotEqual(t, keys[0], keys[3])
}

type class int

const (
	delivered class = iota
	retryable
	throttling
	permanent // at once, for all
	perRecord // after halving
)

func TestAnswers(t *testing.T) {
	for status, want := range map[int]class{
		200: delivered, 201: delivered, 202: delivered, 204: delivered, 299: delivered,
		301: retryable, 302: retryable, 304: retryable, 307: retryable, 308: retryable,
		400: perRecord, 413: perRecord, 422: perRecord,
		401: retryable, 403: retryable, 404: retryable, 407: retryable,
		402: permanent, 405: permanent, 406: permanent, 409: permanent, 410: permanent, 411: permanent, 414: permanent, 415: permanent, 431: permanent, 451: permanent,
		408: throttling, 417: throttling, 425: throttling, 429: throttling, 500: throttling, 502: throttling, 503: throttling, 504: throttling, 599: throttling, 600: throttling,
	} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			const planted = "s3cret"
			server := serve(t, func(w http.ResponseWriter, _ *http.Request, _ []string) int {
				w.Header().Set("Retry-After", "7")
				w.Header().Set("Location", "/"+planted)
				return status
			})
			err := open(t, Options{URL: server.URL}).Deliver(t.Context(), batch(4))
			if want == delivered {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, strconv.Itoa(status))
			assert.NotContains(t, err.Error(), planted)
			requests := 1
			switch want {
			case retryable:
				assert.False(t, isPermanent(err))
				assert.Zero(t, pause(err))
			case throttling:
				assert.False(t, isPermanent(err))
				assert.Equal(t, 7*time.Second, pause(err))
			case perRecord, permanent:
				u, ok := errors.AsType[*report.Undelivered](err)
				require.True(t, ok)
				assert.True(t, u.Permanent)
				assert.Equal(t, []int{0, 1, 2, 3}, u.Records)
				if want == perRecord {
					requests = 7
				}
			case delivered:
			}
			assert.Equal(t, requests, server.count())
		})
	}
}

func isPermanent(err error) bool {
	u, ok := errors.AsType[*report.Undelivered](err)
	return ok && u.Permanent
}

func pause(err error) time.Duration {
	if u, ok := errors.AsType[*report.Undelivered](err); ok {
		return u.After
	}
	return 0
}

func TestPoisonTakesNoOthersAlong(t *testing.T) {
	for _, status := range []int{400, 413, 422} {
		records := batch(100)
		poison := map[string]bool{records[17].ID(): true, records[18].ID(): true, records[99].ID(): true}
		server := serve(t, func(_ http.ResponseWriter, _ *http.Request, ids []string) int {
			for _, id := range ids {
				if poison[id] {
					return status
				}
			}
			return 0
		})
		err := open(t, Options{URL: server.URL}).Deliver(t.Context(), records)
		u, ok := errors.AsType[*report.Undelivered](err)
		require.True(t, ok)
		assert.True(t, u.Permanent)
		assert.Equal(t, []int{17, 18, 99}, u.Records)
		assert.Len(t, server.taken, 97)
		for id, times := range server.taken {
			assert.Equal(t, 1, times, id)
		}
		assert.Less(t, server.count(), 45, "of one poison record log2(100) levels of two, of three at most three times as many")
	}
}

// A batch that is too large as a whole fits in parts.
func TestTooLargeTogether(t *testing.T) {
	server := serve(t, func(_ http.ResponseWriter, _ *http.Request, ids []string) int {
		if len(ids) > 10 {
			return http.StatusRequestEntityTooLarge
		}
		return 0
	})
	require.NoError(t, open(t, Options{URL: server.URL}).Deliver(t.Context(), batch(64)))
	assert.Len(t, server.taken, 64)
}

// nginx and others answer 413 by the length alone, and hang up on who goes on writing.
func TestTooLargeIsHeard(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	records := batch(1)
	records[0].Raw = entry(strings.Repeat("large", 4<<20))
	sink := open(t, Options{URL: "http://" + listener.Addr().String(), Compression: "none"})
	transport, ok := sink.client.Transport.(*http.Transport)
	require.True(t, ok)
	assert.Positive(t, transport.ExpectContinueTimeout)
	transport.ExpectContinueTimeout = time.Minute // who goes on writing may not hear the answer, and a busy machine can be slow to give it
	err = sink.Deliver(t.Context(), records)
	assert.True(t, isPermanent(err), "%v", err)
}

func TestUnwritableRecords(t *testing.T) {
	server := serve(t, nil)
	sink := open(t, Options{URL: server.URL})
	records := batch(5)
	records[1].Raw, records[3].Kind = "\xff", 99
	err := sink.Deliver(t.Context(), records)
	u, ok := errors.AsType[*report.Undelivered](err)
	require.True(t, ok)
	assert.True(t, u.Permanent)
	assert.Equal(t, []int{1, 3}, u.Records)
	require.ErrorContains(t, err, records[1].ID())
	assert.Len(t, server.taken, 3)

	err = sink.Deliver(t.Context(), records[1:2])
	assert.True(t, isPermanent(err))
	assert.Equal(t, 1, server.count(), "an empty request is not sent")
}

// What is redirected arrives nowhere else.
func TestRedirects(t *testing.T) {
	elsewhere := serve(t, nil)
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("s3cret"), 0o600))
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := serve(t, func(w http.ResponseWriter, _ *http.Request, _ []string) int {
			w.Header().Set("Location", elsewhere.URL)
			return status
		})
		err := open(t, Options{URL: server.URL, Credential: client.Credential{File: token}}).Deliver(t.Context(), batch(2))
		require.ErrorContains(t, err, "redirects are not followed")
		assert.False(t, isPermanent(err))
	}
	assert.Zero(t, elsewhere.count())
}

func TestFaults(t *testing.T) {
	hijack := func(w http.ResponseWriter) *net.TCPConn {
		conn, _, err := http.NewResponseController(w).Hijack()
		assert.NoError(t, err)
		return conn.(*net.TCPConn)
	}
	var came sync.Map
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, ids []string) int{
		"reset": func(w http.ResponseWriter, _ *http.Request, _ []string) int {
			conn := hijack(w)
			_ = conn.SetLinger(0)
			conn.Close()
			return 0
		},
		"accept, then drop": func(w http.ResponseWriter, _ *http.Request, ids []string) int {
			came.Store(ids[0], true)
			hijack(w).Close()
			return 0
		},
		"half an answer": func(w http.ResponseWriter, _ *http.Request, _ []string) int {
			conn := hijack(w)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 O")
			conn.Close()
			return 0
		},
		"no HTTP": func(w http.ResponseWriter, _ *http.Request, _ []string) int {
			conn := hijack(w)
			_, _ = io.WriteString(conn, "hello\r\n\r\n")
			conn.Close()
			return 0
		},
		"endless headers": func(w http.ResponseWriter, _ *http.Request, _ []string) int {
			conn := hijack(w)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nA: "+strings.Repeat("a", 1<<20))
			conn.Close()
			return 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				lines, err := readLines(r)
				assert.NoError(t, err)
				answer(w, r, lines)
			}))
			defer server.Close()
			err := open(t, Options{URL: server.URL + "/?token=s3cret"}).Deliver(t.Context(), batch(2))
			require.Error(t, err)
			assert.False(t, isPermanent(err))
			assert.NotContains(t, err.Error(), "s3cret")
		})
	}
	count := 0
	came.Range(func(any, any) bool { count++; return true })
	assert.Equal(t, 1, count, "it was delivered, but nobody said so")
}

func TestNobodyListens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	listener.Close()
	err = open(t, Options{URL: "http://" + address}).Deliver(t.Context(), batch(1))
	require.ErrorContains(t, err, "refused")
	assert.False(t, isPermanent(err))
}

// A server that hangs costs the attempt and no more. One that does so in a long answer costs nothing.
func TestHang(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/long" {
			_, _ = io.WriteString(w, strings.Repeat("long", 1<<10))
			_ = http.NewResponseController(w).Flush()
		}
		arrived <- struct{}{}
		<-release
	}))
	defer server.Close()
	defer close(release)
	deliver := func(ctx context.Context, sink *Sink) <-chan error {
		done := make(chan error, 1)
		go func() { done <- sink.Deliver(ctx, batch(1)) }()
		<-arrived
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := deliver(ctx, open(t, Options{URL: server.URL}))
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.NoError(t, <-deliver(t.Context(), open(t, Options{URL: server.URL + "/long"})))
}

func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	kept := &fakeServer{taken: map[string]int{}}
	server.Config.Handler = kept.handler(t, nil)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca")
	sink := open(t, Options{URL: server.URL, TLS: client.TLS{CA: ca}})
	require.ErrorIs(t, sink.Deliver(t.Context(), batch(1)), os.ErrNotExist)

	generated := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(ca, generated, 0o600))
	require.NoError(t, sink.Deliver(t.Context(), batch(2)))
	assert.Len(t, kept.taken, 2)
	assert.Equal(t, "HTTP/2.0", kept.requests[0].Proto)

	for name, o := range map[string]client.TLS{
		"the system's CAs": {},
		"another name":     {CA: ca, ServerName: "other.test"},
	} {
		err := open(t, Options{URL: server.URL, TLS: o}).Deliver(t.Context(), batch(1))
		require.ErrorContains(t, err, "x509", name)
		assert.False(t, isPermanent(err), name)
	}
	assert.Equal(t, 1, kept.count())
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	var mu sync.Mutex
	opened := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, strings.Repeat("away", 100))
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			mu.Lock()
			defer mu.Unlock()
			opened++
		}
	}
	server.Start()
	defer server.Close()
	sink := open(t, Options{URL: server.URL})
	for range 20 {
		require.Error(t, sink.Deliver(t.Context(), batch(1)))
	}
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, 1, opened)
}

func TestConcurrency(t *testing.T) {
	server := serve(t, nil)
	sink := open(t, Options{URL: server.URL})
	var workers sync.WaitGroup
	for worker := range uint64(8) {
		workers.Go(func() {
			for round := range uint64(20) {
				records := batch(50)
				for i := range records {
					records[i].Sequence = worker*1000 + round
				}
				assert.NoError(t, sink.Deliver(t.Context(), records))
			}
		})
	}
	workers.Wait()
	assert.Len(t, server.taken, 8*20*50)
	for id, times := range server.taken {
		assert.Equal(t, 1, times, id)
	}
}

func BenchmarkBuild(b *testing.B) {
	records := batch(1000)
	for i := range records {
		records[i].Raw = entry(fmt.Sprintf("severity %d", i))
	}
	for _, compression := range []string{compressionGzip, compressionNone} {
		b.Run(compression, func(b *testing.B) {
			body := newBody()
			b.ReportAllocs()
			for b.Loop() {
				if content, _, err := body.build(b.Context(), records, compression); err != nil || len(content) == 0 {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
		})
	}
}

func BenchmarkIdempotencyKey(b *testing.B) {
	records := batch(1000)
	b.ReportAllocs()
	for b.Loop() {
		idempotencyKey(records)
	}
}
