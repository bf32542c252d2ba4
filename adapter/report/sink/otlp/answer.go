package otlp

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

// classifyStatus says what follows from a gRPC status. The OTLP specification says it of most codes; where we differ is said below.
func classifyStatus(s *status.Status, headers map[string]string) error {
	code, message := s.Code(), redact(s.Message(), headers)
	err := fmt.Errorf("%s: %s", code, quote(message))
	switch code {
	case codes.OK:
		return nil
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.Unavailable, codes.DataLoss:
	case codes.ResourceExhausted, codes.OutOfRange:
		if isAboutSize(message) {
			return fmt.Errorf("%w: %w", errTooLarge, err)
		}
		// Without RetryInfo it is final by the specification; but it is about the other side's means, not about the records.
	case codes.Unauthenticated, codes.PermissionDenied:
		// Final by the specification. It is an operator's mistake, and the records are good as soon as it is mended.
		return fmt.Errorf("%w; check the credential and the headers", err)
	case codes.Unknown, codes.Internal, codes.Unimplemented:
		if !isBrokenStream(code, message) {
			return report.Permanent(err)
		}
	default: // InvalidArgument, NotFound, AlreadyExists, FailedPrecondition, and what is no code
		return report.Permanent(err)
	}
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return report.Throttled(min(max(info.GetRetryDelay().AsDuration(), 0), client.MaxRetryAfter), err)
		}
	}
	return err
}

// isAboutSize knows the words of gRPC's implementations, which have no code for it.
func isAboutSize(message string) bool {
	for _, words := range []string{"larger than max", "exceeds maximum size", "message length too large"} {
		if strings.Contains(message, words) {
			return true
		}
	}
	return false
}

// isBrokenStream knows the words with which gRPC's client says that it got no gRPC status at all: the stream was reset, or something
// between us and the other side answered.
func isBrokenStream(code codes.Code, message string) bool {
	if code == codes.Unknown && message == "" { // what it makes of no status at all
		return true
	}
	for _, words := range []string{
		"stream terminated by RST_STREAM", "server closed the stream without sending trailers",
		"unexpected HTTP status code received from server", "malformed header",
	} {
		if strings.HasPrefix(message, words) {
			return true
		}
	}
	return false
}

// classifyHTTP says what follows from an HTTP status that is none of success.
func classifyHTTP(code int, header http.Header, message string) error {
	err := fmt.Errorf("HTTP status %d: %s", code, quote(message))
	switch {
	case code == http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: %w", errTooLarge, err)
	case code >= 300 && code < 400, code == http.StatusNotFound, code == http.StatusMethodNotAllowed:
		// An operator's mistake, as with the credential: the records are good as soon as it is mended.
		return fmt.Errorf("%w; check the endpoint", err)
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusProxyAuthRequired:
		return fmt.Errorf("%w; check the credential and the headers", err)
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code == http.StatusTooEarly, code >= 500:
		if after := client.RetryAfter(header.Get("Retry-After"), time.Now()); after > 0 {
			return report.Throttled(after, err)
		}
		return err
	default:
		return report.Permanent(err)
	}
}

// redact takes out of the other side's words the headers that we sent, in case it repeats them.
func redact(message string, headers map[string]string) string {
	for _, value := range headers {
		for secret := range strings.FieldsSeq(value) {
			if len(secret) >= 4 && secret != "Bearer" {
				message = strings.ReplaceAll(message, secret, "***")
			}
		}
	}
	return message
}
