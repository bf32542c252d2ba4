package otlp

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

const (
	protocolGRPC = "grpc"
	protocolHTTP = "http"

	compressionGzip = "gzip"
	compressionNone = "none"
)

// Options say where records are sent and how. The time that an attempt may take is the lane's.
type Options struct {
	// Endpoint is where OTLP is taken: host:port for gRPC; for HTTP the URL to which /v1/logs, /v1/traces and /v1/metrics are added,
	// such as http://collector:4318. It has no default.
	Endpoint string
	// Protocol is "grpc", which is the default, or "http", for protobuf over HTTP/1.1.
	Protocol string
	// Headers are sent with every request.
	Headers map[string]string
	// Credential is sent with every request; none by default. Its file is read for each.
	Credential client.Credential
	// CredentialHeader is "authorization" by default, in which a credential without a space becomes "Bearer <credential>". Anywhere
	// else it is sent as it is.
	CredentialHeader string
	// TLS secures the connections; off by default. An https URL enables it.
	TLS client.TLS
	// Compression is "gzip", which is the default, or "none".
	Compression string
	// Resource is the attributes of the resource that sends. By default service.name is "tollgate".
	Resource map[string]string
}

func (o Options) withDefaults() Options {
	o.Protocol = cmp.Or(o.Protocol, protocolGRPC)
	o.CredentialHeader = cmp.Or(o.CredentialHeader, "authorization")
	o.Compression = cmp.Or(o.Compression, compressionGzip)
	if o.Protocol == protocolHTTP && strings.HasPrefix(o.Endpoint, "https://") {
		o.TLS.Enabled = true
	}
	return o
}

// Validate returns all that is wrong with the options.
func (o Options) Validate() error {
	o = o.withDefaults()
	problems := []error{o.validateEndpoint()}
	if !slices.Contains([]string{protocolGRPC, protocolHTTP}, o.Protocol) {
		problems = append(problems, fmt.Errorf("protocol is %q; use %q or %q", o.Protocol, protocolGRPC, protocolHTTP))
	}
	if !slices.Contains([]string{compressionGzip, compressionNone}, o.Compression) {
		problems = append(problems, fmt.Errorf("compression is %q; use %q or %q", o.Compression, compressionGzip, compressionNone))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Headers)) {
		if err := validateHeader(name); err != nil {
			problems = append(problems, fmt.Errorf("headers: %w", err))
		}
		if !isHeaderValue(o.Headers[name]) {
			problems = append(problems, fmt.Errorf("headers: the value of %q has other than printable ASCII characters; remove them", name))
		}
		if o.Credential.File != "" && strings.EqualFold(name, o.CredentialHeader) {
			problems = append(problems, fmt.Errorf("headers: %q is the credential's; remove it, or set another credential_header", name))
		}
	}
	if err := validateHeader(o.CredentialHeader); err != nil {
		problems = append(problems, fmt.Errorf("credential_header: %w", err))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Resource)) {
		if name == "" || !utf8.ValidString(name) || !utf8.ValidString(o.Resource[name]) {
			problems = append(problems, fmt.Errorf("resource: %q is empty or no UTF-8, or its value is not; mend it", name))
		}
	}
	return errors.Join(append(problems, o.TLS.Validate())...)
}

func (o *Options) validateEndpoint() error {
	if o.Protocol != protocolHTTP {
		host, port, err := net.SplitHostPort(o.Endpoint)
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || host == "" || n == 0 || strings.ContainsAny(host, "/@") {
			return fmt.Errorf("endpoint is %q; with protocol %q it is host:port, such as collector:4317", redactURL(o.Endpoint), protocolGRPC)
		}
		return nil
	}
	u, err := url.Parse(o.Endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return fmt.Errorf("endpoint is %q; with protocol %q it is a URL without user and query, such as http://collector:4318", redactURL(o.Endpoint), protocolHTTP)
	case u.Scheme == "http" && o.TLS.Enabled:
		return fmt.Errorf("endpoint is %q but tls.enabled is true; use https, or do not enable it", o.Endpoint)
	}
	return nil
}

// redactURL removes what might be a password.
func redactURL(endpoint string) string {
	if at := strings.LastIndexByte(endpoint, '@'); at >= 0 {
		return "***" + endpoint[at:]
	}
	return endpoint
}

// validateHeader refuses names that are none and those that the protocols need for themselves.
func validateHeader(name string) error {
	own := []string{"connection", "content-encoding", "content-length", "content-type", "host", "te", "trailer", "transfer-encoding", "upgrade"}
	lower := strings.ToLower(name)
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf("%q is no name of a header; use letters, digits and dashes", name)
	case slices.Contains(own, lower), strings.HasPrefix(lower, "grpc-"), strings.HasSuffix(lower, "-bin"):
		return fmt.Errorf("%q is the protocol's own; remove it", name)
	}
	return nil
}

// isHeaderValue holds headers to what gRPC sends, which is less than what HTTP does.
func isHeaderValue(value string) bool {
	return !strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c > '~' })
}

// headers returns the headers of a request, with the credential as it is now.
func (o *Options) headers() (map[string]string, error) {
	if o.Credential.File == "" {
		return o.Headers, nil
	}
	credential, err := o.Credential.Read()
	if err != nil {
		return nil, fmt.Errorf("credential.file: %w", err)
	}
	if !isHeaderValue(credential) {
		return nil, fmt.Errorf("credential.file: %s has other than printable ASCII characters on one line", o.Credential.File)
	}
	if strings.EqualFold(o.CredentialHeader, "authorization") && !strings.Contains(credential, " ") {
		credential = "Bearer " + credential
	}
	headers := make(map[string]string, len(o.Headers)+1)
	maps.Copy(headers, o.Headers)
	headers[o.CredentialHeader] = credential
	return headers, nil
}

// tls returns the TLS settings with the name that the other side's certificate must have, which crypto/tls does not know of an IP
// address.
func (o *Options) tls(host string) client.TLS {
	t := o.TLS
	if t.Enabled && t.ServerName == "" {
		t.ServerName = host
	}
	return t
}
