package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Reason is why a connection or a call was refused; a metric label.
type Reason string

// The reasons. Those of connections come first, then those of TLS handshakes, then those of calls.
const (
	TooManyConnections   Reason = "connections"
	TooManyOfAddress     Reason = "connections_of_address"
	NotTLS               Reason = "not_tls"
	HandshakeTimeout     Reason = "handshake_timeout"
	HandshakeAborted     Reason = "handshake_aborted"
	CertificateExpired   Reason = "certificate_expired"
	CertificateAuthority Reason = "certificate_authority"
	Certificate          Reason = "certificate"
	ServerRefused        Reason = "server_refused"
	Handshake            Reason = "handshake"
	NoCredential         Reason = "no_credential" //nolint:gosec // a reason, no credential
	CertificateName      Reason = "certificate_name"
	WrongCredential      Reason = "wrong_credential" //nolint:gosec // the same
	SecretUnavailable    Reason = "secret_unavailable"
	TokenExpired         Reason = "token_expired"
	InvalidToken         Reason = "token"
	KeysUnavailable      Reason = "keys_unavailable"
	MessageTooLarge      Reason = "message_bytes"
)

// Refusal is a connection or a call that was refused. Nothing in it is secret.
type Refusal struct {
	Reason Reason
	// Peer is the other side's address; empty where it has none.
	Peer string
	// Method is the call's; empty for a connection.
	Method string
	// Detail says more, for the log.
	Detail string
}

// Observer is told what the transport does. It is called from many goroutines and must not block.
type Observer interface {
	// Refused is told of every connection and call that was refused.
	Refused(refusal Refusal)
}

// handshakeReason tells why a TLS handshake failed.
func handshakeReason(err error) Reason {
	var (
		record    tls.RecordHeaderError
		verify    *tls.CertificateVerificationError
		invalid   x509.CertificateInvalidError
		authority x509.UnknownAuthorityError
		operation *net.OpError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &record):
		return NotTLS
	case errors.As(err, &verify):
		switch {
		case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
			return CertificateExpired
		case errors.As(err, &authority):
			return CertificateAuthority
		}
		return Certificate
	case errors.As(err, &operation) && operation.Op == "remote error":
		return ServerRefused
	case errors.As(err, &timeout) && timeout.Timeout():
		return HandshakeTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.As(err, &operation):
		return HandshakeAborted
	}
	return Handshake
}

// TooLarge tells the observer of a call that was not received because it is larger than limits.message_bytes. The error is gRPC's, which
// says how large it is.
func (t *Transport) TooLarge(ctx context.Context, method string, err error) {
	refusal := Refusal{Reason: MessageTooLarge, Method: method, Detail: status.Convert(err).Message() + "; raise limits.message_bytes"}
	if from, ok := peer.FromContext(ctx); ok && from.Addr != nil {
		refusal.Peer = from.Addr.String()
	}
	t.observer.Refused(refusal)
}
