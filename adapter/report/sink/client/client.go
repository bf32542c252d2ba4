// Package client is what the sinks that talk to somebody share: who the other side must be, who they are to it, and secrets from
// files. All files are read when they are used, so that they can be replaced while the process runs.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// TLS says how a connection is secured.
type TLS struct {
	// Enabled is whether it is secured at all.
	Enabled bool
	// CA is a file of PEM certificates, one of which must have signed the other side's; empty for those that the system trusts. At
	// most 4 MiB.
	CA string
	// Cert and Key are files of a PEM certificate, with its chain, and its private key, for a server that asks who we are; empty for
	// none. At most 4 MiB each.
	Cert, Key string
	// ServerName is whom the other side's certificate must be made out to; empty for the host that is dialed.
	ServerName string
}

// Validate returns all that is wrong with the settings. It reads no file.
func (t TLS) Validate() error {
	var problems []error
	if !t.Enabled {
		for _, f := range []struct{ key, value string }{
			{"tls.ca", t.CA}, {"tls.cert", t.Cert}, {"tls.key", t.Key}, {"tls.server_name", t.ServerName},
		} {
			if f.value != "" {
				problems = append(problems, fmt.Errorf("%s is %q but tls.enabled is false; enable it, or remove %[1]s", f.key, f.value))
			}
		}
	}
	switch {
	case t.Cert != "" && t.Key == "":
		problems = append(problems, fmt.Errorf("tls.cert is %q without a tls.key; name the file of its private key", t.Cert))
	case t.Cert == "" && t.Key != "":
		problems = append(problems, fmt.Errorf("tls.key is %q without a tls.cert; name the file of its certificate", t.Key))
	}
	return errors.Join(problems...)
}

// Config returns what crypto/tls needs, nil if TLS is not enabled; its errors are those of Validate. Files are read anew in every
// handshake, which fails while they cannot be used; connections that are established stay.
//
// With a CA, crypto/tls tells the check of the certificate whom we want to reach only if that is a name. Who dials an IP address
// puts it into ServerName first, or the handshake fails.
func (t TLS) Config() (*tls.Config, error) {
	if err := t.Validate(); err != nil || !t.Enabled {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		// A pool in RootCAs would be the same for ever. So the usual verification, which this turns off, happens in verify.
		config.InsecureSkipVerify = true
		config.VerifyConnection = t.verify
	}
	if t.Cert != "" {
		config.GetClientCertificate = t.certificate
	}
	return config, nil
}

// Dial connects with the TLS files as they are at that time. The other side's certificate must be made out to the host of the address,
// unless ServerName says to whom.
func (t TLS) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if !t.Enabled {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	if t.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		t.ServerName = host
	}
	config, err := t.Config()
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
}

// verify does what crypto/tls does unless it is told not to, with the CA file as it is now.
func (t TLS) verify(state tls.ConnectionState) error {
	pem, err := read(t.CA, maxPEM)
	if err != nil {
		return fmt.Errorf("tls.ca: %w", err)
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("tls.ca: %s has no PEM certificate", t.CA)
	}
	name := cmp.Or(t.ServerName, state.ServerName)
	if name == "" { // would be anybody
		return errors.New("the other side has no name to check its certificate for; set tls.server_name")
	}
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, DNSName: name})
	return err
}

func (t TLS) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	chain, err := read(t.Cert, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("tls.cert: %w", err)
	}
	key, err := read(t.Key, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("tls.key: %w", err)
	}
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil { // tells what is in the files
		return nil, fmt.Errorf("tls.cert, tls.key: %s and %s are not a PEM certificate and its private key", t.Cert, t.Key)
	}
	return &cert, nil
}

// Credential is a secret in a file: a password, a token.
type Credential struct {
	// File is its path; empty for no credential.
	File string
}

// Read returns what the file has now, without the white space around it, and "" if there is no file to read. A file that is empty or
// larger than 64 KiB is an error. Errors tell the file's name and nothing that is in it.
func (c Credential) Read() (string, error) {
	if c.File == "" {
		return "", nil
	}
	content, err := read(c.File, maxCredential)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(content))
	if secret == "" {
		return "", fmt.Errorf("%s is empty; write the credential into it", c.File)
	}
	return secret, nil
}

const (
	maxPEM        = 4 << 20
	maxCredential = 64 << 10
)

// read returns a file of at most so many bytes. Its errors name the file.
func read(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // nothing was written
	var content bytes.Buffer
	switch n, err := content.ReadFrom(io.LimitReader(file, limit+1)); {
	case err != nil:
		return nil, err
	case n > limit:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return content.Bytes(), nil
}
