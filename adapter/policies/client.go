package policies

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/open-policy-agent/opa/v1/plugins/rest"
)

// clientName is what the client is called in OPA's configuration.
const clientName = "tollgate"

// client asks a bundle's server for OPA, which takes it for a plugin that knows credentials. OPA's own clients wait for ever for a body
// that does not end, and bound the files of a bundle but not the bundle.
type client struct {
	bundle   *Bundle
	maxBytes int64
	// transport is asked for everything.
	transport *http.Transport
	// activated is whether a bundle came into force in this attempt. OPA makes one after another, each in one goroutine.
	activated bool
	// whole is whether OPA takes another bundle than that in force for the last one, so that a server must not compare with it.
	whole bool
}

func newClient(b *Bundle, maxBytes int64) (*client, error) {
	c := &client{bundle: b, maxBytes: maxBytes, transport: &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12},
		// The end of an attempt is not that of a connection which it began to make.
		DialContext:         (&net.Dialer{Timeout: b.Timeout}).DialContext,
		TLSHandshakeTimeout: b.Timeout,
	}}
	if b.CA != "" {
		certificates, err := os.ReadFile(b.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		c.transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !c.transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(certificates) {
			return nil, fmt.Errorf("ca: the file %s has no certificate in PEM", b.CA)
		}
	}
	return c, nil
}

// Start is a plugin's.
func (c *client) Start(context.Context) error { return nil }

// Stop is a plugin's.
func (c *client) Stop(context.Context) {}

// Reconfigure is a plugin's.
func (c *client) Reconfigure(context.Context, any) {}

func (c *client) close() { c.transport.CloseIdleConnections() }

// NewClient returns the HTTP client. It follows no redirect: nobody else is to get the bearer token, nor to name a server without TLS.
func (c *client) NewClient(rest.Config) (*http.Client, error) {
	return &http.Client{
		Transport:     c,
		Timeout:       c.bundle.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// Prepare begins an attempt. It adds the credential, and asks for whole bundles: changes of them cannot be signed.
func (c *client) Prepare(request *http.Request) error {
	c.activated = false
	request.Header.Set("Prefer", "modes=snapshot")
	if c.whole {
		request.Header.Del("If-None-Match")
	}
	if c.bundle.BearerFile == "" {
		return nil
	}
	token, err := os.ReadFile(c.bundle.BearerFile)
	if err != nil {
		return fmt.Errorf("bearer_file: %w", err)
	}
	if token = bytes.TrimSpace(token); len(token) == 0 {
		return fmt.Errorf("bearer_file: the file %s is empty", c.bundle.BearerFile)
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	return nil
}

// RoundTrip returns a bundle only as a whole, and one that OPA can read without harm.
func (c *client) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := c.transport.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusOK {
		return response, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, c.maxBytes+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > c.maxBytes {
		return nil, fmt.Errorf("the bundle has more than %d bytes; max_bytes bounds it", c.maxBytes)
	}
	if err := inspect(body, c.maxBytes); err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

// inspect reads a bundle before OPA does, which bounds each of its files alone and takes in more than is of use here.
func inspect(archive []byte, most int64) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return fmt.Errorf("the bundle is no gzip archive: %w", err)
	}
	bounded := &io.LimitedReader{R: unzipped, N: most + 1}
	files := tar.NewReader(bounded)
	tooLarge := fmt.Errorf("the bundle has more than %d bytes when it is unpacked; max_bytes bounds it", most)
	left := most // of what files are when they are read: their holes take no bytes here
	for n := 0; ; n++ {
		header, err := files.Next()
		switch {
		case bounded.N <= 0:
			return tooLarge
		case errors.Is(err, io.EOF):
			if _, err := io.Copy(io.Discard, bounded); err != nil { // up to the checksum
				return fmt.Errorf("the bundle is damaged: %w", err)
			}
			return nil
		case err != nil:
			return fmt.Errorf("the bundle is damaged: %w", err)
		case n >= maxFiles:
			return fmt.Errorf("the bundle has more than %d files", maxFiles)
		case header.Size > left:
			return tooLarge
		}
		left -= max(header.Size, 0)
		switch name := path.Base(header.Name); {
		case name == "patch.json":
			return errors.New("the bundle is a delta, which nobody can sign; serve whole bundles")
		case strings.HasSuffix(name, ".wasm"):
			return errors.New("the bundle has WebAssembly; build it from Rego alone")
		}
	}
}
