package settings

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/transport/clientname"
)

// TLS says how calls are encrypted, and which certificates may call.
type TLS struct {
	// Cert and Key are PEM files: the server's certificate with its chain, and its private key. Both or none.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ClientCA is a PEM file of the authorities whose client certificates are believed; empty for none.
	ClientCA string `yaml:"client_ca"`
	// ClientNames are the names in client certificates that may call, see clientname.Pattern.
	ClientNames []string `yaml:"client_names"`
	// MinVersion is 1.2 or 1.3.
	MinVersion string `yaml:"min_version"`
}

// Enabled reports whether calls are encrypted.
func (t TLS) Enabled() bool { return t.Cert != "" }

// Caller is somebody who may call, known by one credential: exactly one of the fields is set.
type Caller struct {
	// Bearer names the secret that holds the tokens of `authorization: Bearer TOKEN`.
	Bearer string `yaml:"bearer"`
	// Authorization names the secret that holds whole values of `authorization`.
	Authorization string `yaml:"authorization"`
	// Header is a header of the caller's own.
	Header *HeaderCredential `yaml:"header"`
	// JWT is a bearer token that an authority signed.
	JWT *JWT `yaml:"jwt"`
}

// Secret returns the name of the secret that holds the caller's credentials; empty for a JWT.
func (c Caller) Secret() string {
	switch {
	case c.Bearer != "":
		return c.Bearer
	case c.Authorization != "":
		return c.Authorization
	case c.Header != nil:
		return c.Header.Secret
	}
	return ""
}

// HeaderCredential is a header whose value is a credential.
type HeaderCredential struct {
	// Name is the header's, in lower case.
	Name string `yaml:"name"`
	// Secret names the secret that holds its values.
	Secret string `yaml:"secret"`
}

// JWT says which access tokens are believed. Zero values take the defaults.
type JWT struct {
	// Issuer is what iss has to be.
	Issuer string `yaml:"issuer"`
	// Audiences are those of which aud has to have one.
	Audiences []string `yaml:"audiences"`
	// KeysFile or KeysURL is where the issuer's JWKS is; exactly one.
	KeysFile string `yaml:"keys_file"`
	KeysURL  string `yaml:"keys_url"`
	// KeysCA is a PEM file of the authorities that are believed for KeysURL; empty for the system's.
	KeysCA string `yaml:"keys_ca"`
	// KeysRefresh is how often KeysURL is asked.
	KeysRefresh time.Duration `yaml:"keys_refresh"`
	// Algorithms are the signature algorithms that are believed.
	Algorithms []string `yaml:"algorithms"`
	// Leeway is how far clocks may be apart.
	Leeway time.Duration `yaml:"leeway"`
}

// WithDefaults returns the settings with the defaults in place of what is not set.
func (c Caller) WithDefaults() Caller {
	if c.JWT != nil {
		jwt := *c.JWT
		setDefault(&jwt.KeysRefresh, 10*time.Minute)
		setDefault(&jwt.Leeway, 30*time.Second)
		if len(jwt.Algorithms) == 0 {
			jwt.Algorithms = []string{"RS256", "ES256"}
		}
		c.JWT = &jwt
	}
	return c
}

// Connections bounds what connections may take.
type Connections struct {
	// Max is how many are open at once, MaxPerAddress how many of them from one address. IPv6 addresses count by their /64.
	Max           int `yaml:"max"`
	MaxPerAddress int `yaml:"max_per_address"`
	// Streams is how many calls are under way on one of them.
	Streams int `yaml:"streams"`
	// MaxAge is how long one is used, give or take a tenth, before its caller is asked to open another; 0 for no bound. Grace is how
	// long its calls may then take to finish.
	MaxAge      time.Duration `yaml:"max_age"`
	MaxAgeGrace time.Duration `yaml:"max_age_grace"`
	// HandshakeTimeout bounds TLS and HTTP/2 handshakes together.
	HandshakeTimeout time.Duration `yaml:"handshake_timeout"`
	// Keepalive is after how long without a sign of life the caller is asked for one, KeepaliveTimeout how long it may take to answer.
	Keepalive        time.Duration `yaml:"keepalive"`
	KeepaliveTimeout time.Duration `yaml:"keepalive_timeout"`
	// MinPingInterval is how often the caller may ask for a sign of life itself.
	MinPingInterval time.Duration `yaml:"min_ping_interval"`
	// HeaderBytes is how large the headers of a call may be.
	HeaderBytes int `yaml:"header_bytes"`
	// BufferBytes is the size of the buffer for reading, and of the one for writing, which connections share while they are idle.
	BufferBytes int `yaml:"buffer_bytes"`
}

func defaultConnections() Connections {
	return Connections{
		Max: 10_000, MaxPerAddress: 1000, Streams: 1024,
		MaxAge: 30 * time.Minute, MaxAgeGrace: time.Minute,
		HandshakeTimeout: 10 * time.Second,
		Keepalive:        time.Minute, KeepaliveTimeout: 20 * time.Second, MinPingInterval: 10 * time.Second,
		HeaderBytes: 64 << 10, BufferBytes: 16 << 10,
	}
}

func (c Connections) validate() []error {
	return outOf([]bound{
		{"connections.max", int64(c.Max), 1, 1 << 20, false},
		{"connections.max_per_address", int64(c.MaxPerAddress), 1, 1 << 20, false},
		{"connections.streams", int64(c.Streams), 1, 1 << 20, false},
		{"connections.max_age", int64(c.MaxAge), 0, int64(8760 * time.Hour), true},
		{"connections.max_age_grace", int64(c.MaxAgeGrace), int64(time.Second), int64(time.Hour), true},
		{"connections.handshake_timeout", int64(c.HandshakeTimeout), int64(100 * time.Millisecond), int64(2 * time.Minute), true},
		{"connections.keepalive", int64(c.Keepalive), int64(time.Second), int64(24 * time.Hour), true},
		{"connections.keepalive_timeout", int64(c.KeepaliveTimeout), int64(time.Second), int64(time.Hour), true},
		{"connections.min_ping_interval", int64(c.MinPingInterval), int64(time.Millisecond), int64(time.Hour), true},
		{"connections.header_bytes", int64(c.HeaderBytes), 8 << 10, 1 << 20, false},
		{"connections.buffer_bytes", int64(c.BufferBytes), 4 << 10, 1 << 20, false},
	})
}

// maxSocketPath leaves room for the temporary name that a socket is made under: the system's bound is little more than 100.
const maxSocketPath = 80

// SocketPath returns the path of an address such as unix:///run/tollgate.sock, and false for any other.
func SocketPath(address string) (path string, ok bool) {
	path, ok = strings.CutPrefix(address, "unix://")
	return path, ok && strings.HasPrefix(path, "/")
}

func (t TLS) validate() []error {
	var problems []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	add(t.Cert != "" && t.Key == "", "tls.key is missing; tls.cert needs one")
	add(t.Cert == "" && t.Key != "", "tls.cert is missing; tls.key needs one")
	add(t.Cert == "" && t.Key == "" && t.ClientCA != "", "tls.client_ca stands without tls.cert and tls.key; set them, or nobody is asked for a certificate")
	// Whoever has any certificate of a mesh's authority would get in: every workload has one.
	add(t.ClientCA != "" && len(t.ClientNames) == 0, "tls.client_names is missing; name who may call, since tls.client_ca may have signed for many others")
	add(t.ClientCA == "" && len(t.ClientNames) > 0, "tls.client_names stands without tls.client_ca; set it, or no name is believed")
	_, err := clientname.ParseList(t.ClientNames)
	add(err != nil, "tls.client_names%w", err)
	add(t.MinVersion != "1.2" && t.MinVersion != "1.3", `tls.min_version is %q; use "1.2" or "1.3"`, t.MinVersion)
	return problems
}

func (s Settings) validateCallers() []error {
	return validateNamed("callers", "caller", s.Callers, func(c Caller) []error {
		problems := c.WithDefaults().validate()
		if secret := c.Secret(); secret != "" && s.Secrets.Directory == "" && s.Secrets.Files[secret] == "" {
			key := "header.secret"
			switch {
			case c.Bearer != "":
				key = "bearer"
			case c.Authorization != "":
				key = "authorization"
			}
			problems = append(problems, fmt.Errorf("%s is %q, which secrets.files does not have; add it, or set secrets.directory", key, secret))
		}
		return problems
	})
}

func (c Caller) validate() []error {
	var kinds []string
	for _, kind := range []struct {
		key string
		set bool
	}{{"bearer", c.Bearer != ""}, {"authorization", c.Authorization != ""}, {"header", c.Header != nil}, {"jwt", c.JWT != nil}} {
		if kind.set {
			kinds = append(kinds, kind.key)
		}
	}
	switch {
	case len(kinds) == 0:
		return []error{errors.New("bearer is missing; give the caller one of bearer, authorization, header, jwt")}
	case len(kinds) > 1:
		return []error{fmt.Errorf("%s stands beside %s; a caller has one credential, so make two", kinds[0], strings.Join(kinds[1:], ", "))}
	case c.Header != nil:
		return c.Header.validate()
	case c.JWT != nil:
		return c.JWT.validate()
	}
	return nil
}

// headerName is what HTTP/2 takes, without those that begin as gRPC's own do.
var headerName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,99}$`)

func (h *HeaderCredential) validate() []error {
	var problems []error
	taken := slices.Contains([]string{"authorization", "content-type", "user-agent", "te", "host", "connection"}, h.Name)
	if taken || !headerName.MatchString(h.Name) || strings.HasPrefix(h.Name, "grpc-") || strings.HasSuffix(h.Name, "-bin") {
		problems = append(problems, fmt.Errorf("header.name is %q; use the name of a header in lower case that gRPC has no use for, such as x-api-key", h.Name))
	}
	if h.Secret == "" {
		problems = append(problems, errors.New("header.secret is missing; name the secret that holds the header's values"))
	}
	return problems
}

// algorithms are those that a public key verifies: with a shared secret, whoever can check a token could make one.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

func (j *JWT) validate() []error {
	var problems []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	add(j.Issuer == "", "jwt.issuer is missing; name who makes the tokens")
	add(len(j.Audiences) == 0 || slices.Contains(j.Audiences, ""), "jwt.audiences is %q; name what tokens for Tollgate are made for, or tokens for others would do", j.Audiences)
	add((j.KeysFile == "") == (j.KeysURL == ""), "jwt.keys_file and jwt.keys_url are both set, or neither is; set one of them")
	if j.KeysURL != "" {
		if err := checkURL(j.KeysURL, "keys", "https://idp.example.com/keys"); err != nil {
			problems = append(problems, fmt.Errorf("jwt.keys_%w", err))
		}
	}
	add(j.KeysCA != "" && j.KeysURL == "", "jwt.keys_ca stands without jwt.keys_url; remove it")
	for _, algorithm := range j.Algorithms {
		add(!slices.Contains(algorithms, algorithm), "jwt.algorithms has %q; use some of %s", algorithm, strings.Join(algorithms, ", "))
	}
	return append(problems, outOf([]bound{
		{"jwt.keys_refresh", int64(j.KeysRefresh), int64(10 * time.Second), int64(24 * time.Hour), true},
		{"jwt.leeway", int64(j.Leeway), int64(time.Second), int64(5 * time.Minute), true},
	})...)
}
