package transport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/transport/clientname"
)

// certificates are the server's, and the authorities of its clients'.
type certificates struct {
	pair      *followed[tls.Certificate]
	clientCAs *followed[*x509.CertPool] // nil where no client certificate is believed
	base      *tls.Config
}

// openCertificates reads the files once: to start with a broken one would be to serve nobody.
func openCertificates(s settings.TLS) (*certificates, error) {
	c := &certificates{
		pair: &followed[tls.Certificate]{setting: "tls.cert", paths: []string{s.Cert, s.Key}, parse: parsePair},
		// A resumed session would skip the client's certificate, and connections last too long for it to save anything.
		base: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, SessionTicketsDisabled: true},
	}
	if s.MinVersion == "1.3" {
		c.base.MinVersion = tls.VersionTLS13
	}
	_, err := c.pair.look()
	if s.ClientCA != "" {
		c.clientCAs = &followed[*x509.CertPool]{setting: "tls.client_ca", paths: []string{s.ClientCA}, parse: parseAuthorities}
		// Not required: health is for everybody, and other callers have other credentials. Who must have one is decided call by call.
		c.base.ClientAuth = tls.VerifyClientCertIfGiven
		_, caErr := c.clientCAs.look()
		err = errors.Join(err, caErr)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// forHandshake returns what holds now.
func (c *certificates) forHandshake(*tls.ClientHelloInfo) (*tls.Config, error) {
	config := c.base.Clone()
	config.Certificates = []tls.Certificate{*c.pair.value.Load()}
	if c.clientCAs != nil {
		config.ClientCAs = *c.clientCAs.value.Load()
	}
	return config, nil
}

func parsePair(contents [][]byte) (tls.Certificate, time.Time, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return tls.Certificate{}, time.Time{}, fmt.Errorf("certificate and key: %w", err)
	}
	expires, err := earliestEnd(contents[0])
	if err != nil {
		return tls.Certificate{}, time.Time{}, err
	}
	if !time.Now().Before(expires) {
		return tls.Certificate{}, time.Time{}, fmt.Errorf("the certificate or one of its chain expired on %s", expires.UTC().Format(time.RFC3339))
	}
	return pair, expires, nil
}

func parseAuthorities(contents [][]byte) (*x509.CertPool, time.Time, error) {
	expires, err := earliestEnd(contents[0])
	if err != nil {
		return nil, time.Time{}, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(contents[0])
	return pool, expires, nil
}

// earliestEnd returns when the first of the certificates in PEM expires. Every block that begins has to be a certificate that can be
// read: half a bundle would lock callers out.
func earliestEnd(content []byte) (end time.Time, err error) {
	found := 0
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue // a key may stand beside
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return time.Time{}, err
		}
		if found++; found == 1 || certificate.NotAfter.Before(end) {
			end = certificate.NotAfter
		}
	}
	begun := bytes.Count(content, []byte("-----BEGIN CERTIFICATE-----"))
	switch {
	case found == 0:
		return time.Time{}, errors.New("holds no certificate in PEM")
	case found != begun:
		return time.Time{}, fmt.Errorf("has %d certificates that begin and %d that can be read", begun, found)
	}
	return end, nil
}

// handshaker does TLS handshakes, tells of those that fail, and finds out whom a client's certificate stands for.
type handshaker struct {
	credentials.TransportCredentials
	names    clientname.List
	observer Observer
}

func newHandshaker(c *certificates, names clientname.List, observer Observer) *handshaker {
	config := c.base.Clone()
	config.GetConfigForClient = c.forHandshake
	return &handshaker{TransportCredentials: credentials.NewTLS(config), names: names, observer: observer}
}

// certified is what is known of the other side of a connection.
type certified struct {
	credentials.TLSInfo
	// caller is whom the certificate stands for; empty where there is none, or no name in it may call.
	caller string
	// names are those of a certificate that has none which may call, for the log.
	names string
}

// ServerHandshake does one handshake.
func (h *handshaker) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	connection, info, err := h.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		h.observer.Refused(Refusal{Reason: handshakeReason(err), Peer: raw.RemoteAddr().String(), Detail: err.Error()})
		return nil, nil, err
	}
	tlsInfo, ok := info.(credentials.TLSInfo)
	if !ok || len(tlsInfo.State.VerifiedChains) == 0 {
		return connection, info, nil
	}
	leaf := tlsInfo.State.PeerCertificates[0]
	found := certified{TLSInfo: tlsInfo}
	if found.caller, ok = h.names.Caller(leaf); !ok {
		found.names = namesOf(leaf)
	}
	return connection, found, nil
}

// namesOf returns the names in a certificate, as far as a log line has room for them.
func namesOf(certificate *x509.Certificate) string {
	var names []string
	for _, uri := range certificate.URIs {
		names = append(names, uri.String())
	}
	return fmt.Sprintf("%.300q", append(names, certificate.DNSNames...))
}

// Clone returns an equal one.
func (h *handshaker) Clone() credentials.TransportCredentials {
	return &handshaker{TransportCredentials: h.TransportCredentials.Clone(), names: h.names, observer: h.observer}
}
