package rego

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxResponseBytes bounds what http.send takes of a response's body.
const maxResponseBytes = 1 << 20

// connectTimeout bounds what the evaluation's deadline does not: a connection is made to its end for whoever comes next.
const connectTimeout = 10 * time.Second

// network lets http.send reach the hosts on a list, whatever the policy says and wherever a server redirects to. OPA checks hosts too,
// but not their ports, and its "unix" URLs would open any socket of the machine in an allowed host's name.
type network struct {
	allowed map[string]bool // host, or host:port
	base    *http.Transport
}

func newNetwork(allowed []string, roots *x509.CertPool) *network {
	n := &network{allowed: make(map[string]bool, len(allowed)), base: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout: connectTimeout,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
	}}
	for _, host := range allowed {
		n.allowed[strings.ToLower(host)] = true
	}
	return n
}

// hostOf is an allowed host without its port.
func hostOf(allowed string) string {
	if host, _, err := net.SplitHostPort(allowed); err == nil {
		return host
	}
	return allowed
}

// roundTripper is what sends a policy's request in place of the transport that OPA made for it, if it made one. Of that, only the
// server's name is taken over.
func (n *network) roundTripper(requested *http.Transport) http.RoundTripper {
	transport := n.base
	if requested != nil && requested.TLSClientConfig != nil {
		c := requested.TLSClientConfig
		if c.InsecureSkipVerify || c.RootCAs != nil || len(c.Certificates) > 0 {
			return refusal{errors.New("options of http.send that begin with tls_ are not available, but for tls_server_name; the setting rego.ca says whom it believes")}
		}
		if c.ServerName != "" {
			transport = n.base.Clone()
			transport.TLSClientConfig.ServerName = c.ServerName
			transport.DisableKeepAlives = true
		}
	}
	return guard{n, transport}
}

type refusal struct{ err error }

// RoundTrip refuses.
func (r refusal) RoundTrip(*http.Request) (*http.Response, error) { return nil, r.err }

type guard struct {
	network   *network
	transport http.RoundTripper
}

// RoundTrip sends a request, one that follows a redirect as well, if its host is allowed.
func (g guard) RoundTrip(request *http.Request) (*http.Response, error) {
	if err := g.network.check(request); err != nil {
		return nil, err
	}
	response, err := g.transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	// As a whole, for OPA does not close a body that it cannot read to its end, and a part of an answer could mean its opposite.
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponseBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxResponseBytes {
		return nil, fmt.Errorf("the response has more than %d bytes", maxResponseBytes)
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

// check looks at the Host header as well: a proxy on the way, or a sidecar, goes by that.
func (n *network) check(request *http.Request) error {
	defaultPort, ok := map[string]string{"http": "80", "https": "443"}[request.URL.Scheme]
	if !ok {
		return fmt.Errorf("the scheme %q is not available", request.URL.Scheme)
	}
	for _, asked := range []string{request.URL.Host, cmp.Or(request.Host, request.URL.Host)} {
		to := url.URL{Host: asked}
		host := strings.ToLower(to.Hostname())
		address := net.JoinHostPort(host, cmp.Or(to.Port(), defaultPort))
		if !n.allowed[host] && !n.allowed[address] {
			return fmt.Errorf("the setting rego.allow_hosts does not have %s", address)
		}
	}
	return nil
}
