package httpsink

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"golang.org/x/net/http/httpguts"

	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

// Options say where records go and how.
type Options struct {
	// URL is where requests go; http or https, without a user.
	URL string
	// Method is "POST" (the default) or "PUT".
	Method string
	// Headers are added to every request. Values may be secret; those in files go into Credential.
	Headers map[string]string
	// Credential is sent in CredentialHeader, read anew for every request; none if its File is empty.
	Credential client.Credential
	// CredentialHeader is "Authorization" by default, in which a credential without a space becomes "Bearer <credential>". Anywhere
	// else it is sent as it is.
	CredentialHeader string
	// TLS secures the connections. An https URL enables it.
	TLS client.TLS
	// Compression of requests is "gzip" (the default) or "none".
	Compression string
}

const (
	methodDefault           = http.MethodPost
	credentialHeaderDefault = "Authorization"
	compressionGzip         = "gzip"
	compressionNone         = "none"
)

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		field *string
		value string
	}{{&o.Method, methodDefault}, {&o.CredentialHeader, credentialHeaderDefault}, {&o.Compression, compressionGzip}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if u, err := url.Parse(o.URL); err == nil && u.Scheme == "https" {
		o.TLS.Enabled = true
		if o.TLS.ServerName == "" {
			o.TLS.ServerName = u.Hostname()
		}
	}
	return o
}

// Validate returns all that is wrong with the options. It reads no file and tells no header's value, nor more of the URL than its
// scheme, for either may be secret.
func (o Options) Validate() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	o = o.withDefaults()
	switch u, err := url.Parse(o.URL); {
	case o.URL == "":
		problem("url is empty; name where to send records")
	case err != nil:
		problem("url cannot be parsed; write http://host/path or https://host/path")
	case u.Scheme != "http" && u.Scheme != "https":
		problem("url has the scheme %q; use http or https", u.Scheme)
	case u.Hostname() == "":
		problem("url has no host; write %s://host/path", u.Scheme)
	case u.User != nil:
		problem("url has a user in it; use credential.file")
	case u.Scheme == "http" && o.TLS.Enabled:
		problem("tls.enabled is true but url is http; make it https")
	}
	if o.Method != http.MethodPost && o.Method != http.MethodPut {
		problem("method is %q; use POST or PUT", o.Method)
	}
	if !httpguts.ValidHeaderFieldName(o.CredentialHeader) || isOurs(o.CredentialHeader) {
		problem("credential_header is %q; use the name of a header that is not set otherwise", o.CredentialHeader)
	}
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(o.Headers)) {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			problem("headers has %q, which is no name of a header; correct it", name)
		case isOurs(name):
			problem("headers has %q, which is set otherwise; remove it", name)
		case o.Credential.File != "" && canonical == http.CanonicalHeaderKey(o.CredentialHeader):
			problem("headers has %q, which is where the credential goes; remove one of them", name)
		case seen[canonical] != "":
			problem("headers has %q and %q, which are the same; remove one of them", seen[canonical], name)
		case !httpguts.ValidHeaderFieldValue(o.Headers[name]):
			problem("headers.%s has characters that a header cannot have; remove them", name)
		}
		seen[canonical] = name
	}
	if err := o.TLS.Validate(); err != nil {
		problems = append(problems, err)
	}
	if o.Compression != compressionGzip && o.Compression != compressionNone {
		problem("compression is %q; use gzip or none", o.Compression)
	}
	return errors.Join(problems...)
}

// isOurs tells the headers that this sink or net/http sets.
func isOurs(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Connection", "Host", "Trailer", "Expect", headerIdempotency:
		return true
	}
	return false
}
