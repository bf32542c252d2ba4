package follow

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
)

// fetch returns the document as it is now.
func (s Source) fetch(ctx context.Context) (document []byte, err error) {
	if s.File != "" {
		document, err = readFile(s.File, s.MaxBytes)
	} else {
		document, err = s.get(ctx)
	}
	if err == nil && int64(len(document)) > s.MaxBytes {
		err = fmt.Errorf("it has more than %d bytes", s.MaxBytes)
	}
	return document, err
}

// readFile returns at most one byte more than it may.
func readFile(path string, most int64) ([]byte, error) {
	// To open a named pipe would wait for somebody to write.
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, most+1))
}

// Authorities reads the certificates of a file in PEM.
func Authorities(file string) (*x509.CertPool, error) {
	certificates, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(certificates) {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	return pool, nil
}

// get returns at most one byte more than it may. Its errors show nothing of the address, which may have a credential, but what kind
// of trouble there was. Connections are not kept: minutes pass between two requests.
func (s Source) get(ctx context.Context) ([]byte, error) {
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CA != "" {
		// Read each time, so that it can be replaced.
		var err error
		if trust.RootCAs, err = Authorities(s.CA); err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
	}
	const maxHeaderBytes = 64 << 10
	client := &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust, ForceAttemptHTTP2: true, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeaderBytes,
			// The end of an attempt is not that of a connection which it began to make.
			DialContext: (&net.Dialer{Timeout: s.Timeout}).DialContext, TLSHandshakeTimeout: s.Timeout,
		},
		// A redirect may lead to where nothing is encrypted.
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it answers with a redirect; write the address that it leads to")
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, http.NoBody)
	if err != nil {
		return nil, withoutAddress(err)
	}
	if s.Accept != "" {
		request.Header.Set("Accept", s.Accept)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, withoutAddress(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers with HTTP status %d", response.StatusCode)
	}
	return io.ReadAll(io.LimitReader(response.Body, s.MaxBytes+1))
}

func withoutAddress(err error) error {
	if with, ok := errors.AsType[*url.Error](err); ok {
		return with.Err
	}
	return err
}
