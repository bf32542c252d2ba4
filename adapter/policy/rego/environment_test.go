package rego_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

// compileIn makes the check of a policy that may do more than compute.
func compileIn(t *testing.T, options rego.Options, module string) policy.Check {
	t.Helper()
	checks, problems := rego.Kind{Environment: rego.NewEnvironment(options)}.Compile(handler(config.RegoV1, "data.p.allow", "package p\n"+module))
	require.Empty(t, problems)
	return checks[0]
}

// begins is how requests of http.send begin here: its own time-out of five seconds could be over on a busy machine.
const begins = `{"method": "get", "timeout": "2m"`

// send is a policy that yields what http.send got for a request, as the reason of a denial.
func send(request string) string {
	return `allow := {"allow": false, "reason": concat(" ", [sprintf("%d", [r.status_code]), object.get(r, "raw_body", ""), object.get(r, ["error", "message"], "")])}
r := http.send(` + strings.Replace(request, `{"method": "get"`, begins, 1) + `)`
}

func reason(t *testing.T, check policy.Check) string {
	t.Helper()
	v := check.Evaluate(t.Context(), &policy.Request{})
	require.Nil(t, v.Failure, "%v", v.Failure)
	assert.Equal(t, config.SingleUse, v.Lifetime, "what others say may change")
	return v.Reason
}

func TestAllowedHosts(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked <- "other"; fmt.Fprint(w, "other") }))
	defer other.Close()
	otherURL, err := url.Parse(other.URL)
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/port": // the same host
			http.Redirect(w, r, other.URL, http.StatusFound)
		case "/host": // the same server by another name
			http.Redirect(w, r, "http://localhost:"+r.Host[strings.LastIndex(r.Host, ":")+1:]+"/", http.StatusFound)
		case "/self":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/huge":
			_, _ = io.Copy(w, strings.NewReader(strings.Repeat("x", 1<<20+1)))
		default:
			fmt.Fprint(w, "hello ", r.Host)
		}
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	unix := &httptest.Server{Listener: listener, Config: &http.Server{Handler: other.Config.Handler}}
	unix.Start()
	defer unix.Close()

	for name, c := range map[string]struct {
		hosts   []string
		request string
		want    string // what the reason begins with, or has in it
	}{
		"host and port":              {[]string{address}, `{"method": "get", "url": "` + server.URL + `/"}`, "200 hello"},
		"host":                       {[]string{host}, `{"method": "get", "url": "` + server.URL + `/"}`, "200 hello"},
		"another port":               {[]string{address}, `{"method": "get", "raise_error": false, "url": "` + other.URL + `"}`, "the setting rego.allow_hosts does not have 127.0.0.1:" + otherURL.Port()},
		"the default port":           {[]string{address}, `{"method": "get", "raise_error": false, "url": "http://127.0.0.1/"}`, "the setting rego.allow_hosts does not have 127.0.0.1:80"},
		"another host":               {[]string{address}, `{"method": "get", "raise_error": false, "url": "http://localhost:` + port + `/"}`, "disallowed host: localhost"},
		"no redirect":                {[]string{host}, `{"method": "get", "url": "` + server.URL + `/self"}`, "302"},
		"redirect to itself":         {[]string{address}, `{"method": "get", "enable_redirect": true, "url": "` + server.URL + `/self"}`, "200 hello"},
		"redirect to another port":   {[]string{address}, `{"method": "get", "enable_redirect": true, "raise_error": false, "url": "` + server.URL + `/port"}`, "the setting rego.allow_hosts does not have 127.0.0.1:" + otherURL.Port()},
		"redirect to another host":   {[]string{address}, `{"method": "get", "enable_redirect": true, "raise_error": false, "url": "` + server.URL + `/host"}`, "disallowed host: localhost"},
		"redirect to an allowed one": {[]string{address, "127.0.0.1:" + otherURL.Port()}, `{"method": "get", "enable_redirect": true, "url": "` + server.URL + `/port"}`, "200 other"},
		"a socket": {
			[]string{address}, `{"method": "get", "raise_error": false, "url": "unix://` + address + `/?socket=` + url.QueryEscape(socket) + `"}`, "200 hello",
		},
		"another scheme": {[]string{host}, `{"method": "get", "raise_error": false, "url": "ftp://` + address + `/"}`, `the scheme "ftp" is not available`},
		"huge":           {[]string{host}, `{"method": "get", "raise_error": false, "url": "` + server.URL + `/huge"}`, "the response has more than 1048576 bytes"},
		// A proxy on the way goes by the header.
		"Host header":            {[]string{host, "shop"}, `{"method": "get", "headers": {"Host": "shop:81"}, "url": "` + server.URL + `/"}`, "200 hello shop:81"},
		"Host header not on it":  {[]string{host}, `{"method": "get", "raise_error": false, "headers": {"Host": "shop"}, "url": "` + server.URL + `/"}`, "the setting rego.allow_hosts does not have shop:80"},
		"another port in it":     {[]string{host, "shop:81"}, `{"method": "get", "raise_error": false, "headers": {"hOST": "SHOP:82"}, "url": "` + server.URL + `/"}`, "the setting rego.allow_hosts does not have shop:82"},
		"Host header of nothing": {[]string{host}, `{"method": "get", "headers": {"Host": ""}, "url": "` + server.URL + `/"}`, "200 hello " + address},
		"skipped verifying":      {[]string{host}, `{"method": "get", "raise_error": false, "tls_insecure_skip_verify": true, "url": "` + server.URL + `/"}`, "options of http.send that begin with tls_ are not available"},
		"system's certs":         {[]string{host}, `{"method": "get", "raise_error": false, "tls_use_system_certs": true, "url": "` + server.URL + `/"}`, "options of http.send that begin with tls_ are not available"},
		"cache":                  {[]string{host}, `{"method": "get", "cache": true, "url": "` + server.URL + `/"}`, "200 hello"},
		"a cache by force":       {[]string{host}, `{"method": "get", "force_cache": true, "force_cache_duration_seconds": 3600, "url": "` + server.URL + `/"}`, "200 hello"},
		"a file by a detour":     {[]string{host}, `object.union({"method": "get", "raise_error": false, "url": "` + server.URL + `/"}, {concat("_", ["tls", "ca", "cert", "file"]): "testdata/ca.pem"})`, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			got := reason(t, compileIn(t, rego.Options{AllowHosts: c.hosts}, send(c.request)))
			assert.Contains(t, got, c.want)
		})
	}
	assert.Len(t, asked, 1, "nobody asked the other server but who was allowed to")
}

// Whatever is read of the process's files and environment, nothing is sent with it.
func TestRequestsWithWhatIsTheProcesss(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(file, block, 0o600))
	host := hostOf(t, server.URL)
	options := rego.Options{AllowHosts: []string{host}}
	got := reason(t, compileIn(t, options, send(`object.union({"method": "get", "raise_error": false, "url": "`+server.URL+`"}, {concat("_", ["tls", "ca", "cert", "file"]): "`+file+`"})`)))
	assert.Contains(t, got, "options of http.send that begin with tls_ are not available")
	got = reason(t, compileIn(t, options, send(`{"method": "get", "raise_error": false, "url": "`+server.URL+`"}`)))
	assert.Contains(t, got, "certificate")
	assert.Zero(t, asked.Load())
	options.RootCAs = x509.NewCertPool()
	options.RootCAs.AddCert(server.Certificate())
	got = reason(t, compileIn(t, options, send(`{"method": "get", "url": "`+server.URL+`"}`)))
	assert.True(t, strings.HasPrefix(got, "200"), got)
	got = reason(t, compileIn(t, options, send(`{"method": "get", "tls_server_name": "example.com", "url": "`+server.URL+`"}`)))
	assert.True(t, strings.HasPrefix(got, "200"), got)
	got = reason(t, compileIn(t, options, send(`{"method": "get", "raise_error": false, "tls_server_name": "other.example", "url": "`+server.URL+`"}`)))
	assert.Contains(t, got, "other.example")

	for _, option := range []string{"ca_cert_file", "ca_cert_env_variable", "client_cert_file", "client_cert_env_variable", "client_key_file", "client_key_env_variable"} {
		module := "package p\nallow := true\nrequest := {\"tls_" + option + "\": \"x\"}"
		_, problems := rego.Kind{Environment: rego.NewEnvironment(options)}.Compile(handler(config.RegoV1, "data.p.allow", module))
		require.Len(t, problems, 1, option)
		assert.Contains(t, problems[0].String(), "policy[0]:3:13: names tls_"+option)
		_, problems = rego.Kind{}.Compile(handler(config.RegoV1, "data.p.allow", module))
		assert.Empty(t, problems, "it is a text as any other where nothing can be sent")
	}
}

func hostOf(t *testing.T, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u.Host
}

// A request ends with the evaluation that sent it, retries included.
func TestRequestsEndAtTheDeadline(t *testing.T) {
	t.Parallel()
	arrived, left := make(chan struct{}, 10), make(chan struct{}, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	}))
	defer server.Close()
	check := compileIn(t, rego.Options{AllowHosts: []string{hostOf(t, server.URL)}}, send(`{"method": "get", "max_retry_attempts": 100, "raise_error": false, "url": "`+server.URL+`"}`))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	v := check.Evaluate(ctx, &policy.Request{})
	require.NotNil(t, v.Failure)
	assert.Equal(t, config.Timeout, v.Failure.Class)
	select {
	case <-left:
	case <-time.After(2 * time.Minute):
		t.Fatal("the request goes on")
	}
}

// Nor does a connection stay for ever whose server does not say who it is: nobody waits for it any more, and nobody would use it.
func TestConnectionsEnd(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	arrived, left := make(chan struct{}), make(chan struct{})
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		close(arrived)
		_, _ = io.Copy(io.Discard, connection)
		close(left)
	}()
	address := listener.Addr().String()
	check := compileIn(t, rego.Options{AllowHosts: []string{address}}, send(`{"method": "get", "url": "https://`+address+`"}`))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	require.NotNil(t, check.Evaluate(ctx, &policy.Request{}).Failure)
	select {
	case <-left:
	case <-time.After(2 * time.Minute):
		t.Fatal("the connection stays")
	}
}

// Every evaluation asks anew: an answer that was kept would outlive what bounds it.
func TestRequestsAreNotCached(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=3600")
		fmt.Fprint(w, asked.Add(1))
	}))
	defer server.Close()
	request := begins + `, "cache": true, "force_cache": true, "force_cache_duration_seconds": 3600, "url": "` + server.URL + `"}`
	check := compileIn(t, rego.Options{AllowHosts: []string{hostOf(t, server.URL)}},
		`allow := {"allow": false, "reason": concat(" ", [http.send(`+request+`).raw_body, http.send(`+request+`).raw_body])}`)
	assert.Equal(t, "1 1", reason(t, check), "one evaluation asks the same once")
	assert.Equal(t, "2 2", reason(t, check))
}

func TestLookups(t *testing.T) {
	t.Parallel()
	check := compileIn(t, rego.Options{AllowHosts: []string{"localhost:80"}}, `default allow := {"allow": false, "reason": "none"}
allow := {"allow": false, "reason": "found"} if count(net.lookup_ip_addr("localhost")) > 0`)
	assert.Equal(t, "found", reason(t, check))
	check = compileIn(t, rego.Options{AllowHosts: []string{"elsewhere"}}, `default allow := {"allow": false, "reason": "none"}
allow := {"allow": false, "reason": "found"} if count(net.lookup_ip_addr("localhost")) > 0`)
	assert.Equal(t, "none", reason(t, check))
}

func TestPrint(t *testing.T) {
	t.Parallel()
	for version, module := range map[config.RegoVersion]string{
		config.RegoV0: "package p\nallow { print(\"user\", input.subject.user, input.value); true }",
		config.RegoV1: "package p\nallow if { print(\"user\", input.subject.user, input.value); true }",
	} {
		var printed []rego.Printed
		h := handler(version, "data.p.allow", module)
		h.Name = "checkout"
		checks, problems := rego.Kind{Environment: rego.NewEnvironment(rego.Options{Print: func(p rego.Printed) { printed = append(printed, p) }})}.Compile(h)
		require.Empty(t, problems)
		for _, user := range []string{"alice", strings.Repeat("é", 1000)} {
			assert.Equal(t, policy.Passed, checks[0].Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: user}}).Result)
		}
		require.Len(t, printed, 2)
		assert.Equal(t, "checkout", printed[0].Handler)
		assert.Contains(t, printed[0].Place, "policy[0]:2:")
		assert.Equal(t, "user alice <undefined>", printed[0].Text)
		assert.Less(t, len(printed[1].Text), 1100)

		checks, problems = rego.Kind{}.Compile(h)
		require.Empty(t, problems)
		assert.Equal(t, policy.Passed, checks[0].Evaluate(t.Context(), &policy.Request{}).Result)
		assert.Len(t, printed, 2, "it is left out")
	}
}
