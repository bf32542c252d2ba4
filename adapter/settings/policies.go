package settings

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PolicySource is where policies come from: a directory or a bundle. Zero values take the defaults.
type PolicySource struct {
	// Directory has Rego modules and data documents.
	Directory string `yaml:"directory"`
	// Bundle is asked for from a server; nil for none.
	Bundle *Bundle `yaml:"bundle"`
	// RegoVersion is v1 or v0: the language of modules whose bundle does not say.
	RegoVersion string `yaml:"rego_version"`
	// MaxBytes is how large modules and data may be together.
	MaxBytes int64 `yaml:"max_bytes"`
	// MaxStale is how long the last good policies count while the source is away; 0 for ever.
	MaxStale time.Duration `yaml:"max_stale"`
}

// Bundle is an OPA bundle that a server offers.
type Bundle struct {
	// URL is the bundle's; https, or http on this machine.
	URL string `yaml:"url"`
	// CA is a file of certificates that the URL's server is verified with, in place of the system's.
	CA string `yaml:"ca"`
	// BearerFile is a file whose content is sent as the bearer token.
	BearerFile string `yaml:"bearer_file"`
	// MinRefresh and MaxRefresh are between which times the server is asked again; whole seconds.
	MinRefresh time.Duration `yaml:"min_refresh"`
	MaxRefresh time.Duration `yaml:"max_refresh"`
	// Timeout bounds an attempt.
	Timeout time.Duration `yaml:"timeout"`
	// Keys maps key ids to the keys that bundles are verified with.
	Keys map[string]BundleKey `yaml:"keys"`
	// Scope is what signatures must be for; empty where they must be for none.
	Scope string `yaml:"scope"`
	// Unsigned consents to bundles that nobody signed.
	Unsigned bool `yaml:"unsigned"`
	// Persist is a directory that keeps the last good bundle; empty for none.
	Persist string `yaml:"persist"`
}

// BundleKey is a key that bundles are verified with.
type BundleKey struct {
	// File has the public key or certificate in PEM, or an HMAC secret.
	File string `yaml:"file"`
	// Algorithm is the signatures'.
	Algorithm string `yaml:"algorithm"`
}

// Rego says what policies may do beside computing.
type Rego struct {
	// AllowHosts are the hosts that policies may ask, each a name or an IPv4 address, alone or with a port.
	AllowHosts []string `yaml:"allow_hosts"`
	// CA is a file of certificates that those hosts are verified with, in place of the system's.
	CA string `yaml:"ca"`
	// Print lets policies print to the log at debug, which may show anything of a request.
	Print bool `yaml:"print"`
}

// The languages of policies.
const (
	RegoV0 = "v0"
	RegoV1 = "v1"
)

// WithDefaults returns the settings with the defaults in place of what is not set.
func (p PolicySource) WithDefaults() PolicySource {
	setDefault(&p.RegoVersion, RegoV1)
	setDefault(&p.MaxBytes, 16<<20)
	if p.Bundle != nil {
		b := *p.Bundle
		setDefault(&b.MinRefresh, 10*time.Second)
		setDefault(&b.MaxRefresh, max(30*time.Second, b.MinRefresh))
		setDefault(&b.Timeout, 30*time.Second)
		b.Keys = maps.Clone(b.Keys)
		for id, key := range b.Keys {
			setDefault(&key.Algorithm, "RS256")
			b.Keys[id] = key
		}
		p.Bundle = &b
	}
	return p
}

func validatePolicies(policies map[string]PolicySource) (problems []error) {
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		if !simpleName.MatchString(name) {
			problems = append(problems, fmt.Errorf("policies has %q; name a source with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends", name))
		}
		for _, problem := range policies[name].WithDefaults().validate() {
			problems = append(problems, fmt.Errorf("policies.%s.%w", name, problem))
		}
	}
	return problems
}

func (p PolicySource) validate() (problems []error) {
	switch {
	case p.Directory == "" && p.Bundle == nil:
		problems = append(problems, errors.New("directory is missing; name a directory with Rego modules, or a bundle"))
	case p.Directory != "" && p.Bundle != nil:
		problems = append(problems, errors.New("directory stands beside bundle; keep the one that the policies come from"))
	}
	if p.RegoVersion != RegoV0 && p.RegoVersion != RegoV1 {
		problems = append(problems, fmt.Errorf("rego_version is %q; use v1, or v0 for the syntax before OPA 1.0", p.RegoVersion))
	}
	bounds := []bound{{"max_bytes", p.MaxBytes, 1 << 10, 1 << 30, false}}
	shortest := time.Minute
	if p.Bundle != nil {
		for _, problem := range p.Bundle.validate() {
			problems = append(problems, fmt.Errorf("bundle.%w", problem))
		}
		shortest = max(shortest, 2*p.Bundle.MaxRefresh)
	}
	if p.MaxStale != 0 {
		bounds = append(bounds, bound{"max_stale", int64(p.MaxStale), int64(shortest), int64(720 * time.Hour), true})
	}
	return append(problems, outOf(bounds)...)
}

var bundleAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "HS256", "HS384", "HS512"}

func (b *Bundle) validate() (problems []error) {
	add := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	if err := checkBundleURL(b.URL); err != nil {
		problems = append(problems, err)
	}
	add(len(b.Keys) == 0 && !b.Unsigned, "keys is missing, and who can give you a bundle decides who may pass; name the keys that sign it, or set unsigned: true")
	add(len(b.Keys) > 0 && b.Unsigned, "unsigned is true and stands beside keys; remove it")
	add(b.Scope != "" && len(b.Keys) == 0, "scope is %q, but there are no keys whose signatures could have it; remove it", b.Scope)
	for _, id := range slices.Sorted(maps.Keys(b.Keys)) {
		key := b.Keys[id]
		add(id == "" || key.File == "", "keys has %q without a file; give every key an id and a file", id)
		add(!slices.Contains(bundleAlgorithms, key.Algorithm), "keys.%s.algorithm is %q; use one of %s", id, key.Algorithm, strings.Join(bundleAlgorithms, ", "))
	}
	add(b.MinRefresh%time.Second != 0 || b.MaxRefresh%time.Second != 0, "min_refresh and max_refresh are %s and %s; use whole seconds", b.MinRefresh, b.MaxRefresh)
	return append(problems, outOf([]bound{
		{"min_refresh", int64(b.MinRefresh), int64(time.Second), int64(24 * time.Hour), true},
		{"max_refresh", int64(b.MaxRefresh), int64(b.MinRefresh), int64(24 * time.Hour), true},
		{"timeout", int64(b.Timeout), int64(100 * time.Millisecond), int64(10 * time.Minute), true},
	})...)
}

// checkBundleURL never shows the URL: a mistaken one may hold a credential.
func checkBundleURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return errors.New("url is missing; write the bundle's, such as https://bundles.example.com/shop.tar.gz")
	case err != nil || u.Host == "":
		return errors.New("url is none; write one such as https://bundles.example.com/shop.tar.gz")
	case strings.Trim(u.Path, "/") == "":
		return errors.New("url names a server and no bundle on it; write one such as https://bundles.example.com/shop.tar.gz")
	case u.User != nil:
		return errors.New("url has a user or a password, which would be in logs; remove it")
	case u.Scheme == "https", u.Scheme == "http" && ThisMachine(u.Hostname()):
		return nil
	default:
		return errors.New("url must begin with https://, or others could see your policies; http:// is for this machine alone, such as http://127.0.0.1")
	}
}

// allowedHost is a name or an IPv4 address. OPA cuts a host at its first colon, so it never finds an IPv6 address allowed.
var allowedHost = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

func (r Rego) validate() (problems []error) {
	for _, allowed := range r.AllowHosts {
		host, port, err := net.SplitHostPort(allowed)
		if err != nil {
			host, port = allowed, "443"
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || !allowedHost.MatchString(host) {
			problems = append(problems, fmt.Errorf("rego.allow_hosts has %q; write a name or an IPv4 address, alone or with a port, such as entitlements.shop:8080", allowed))
		}
	}
	if r.CA != "" && len(r.AllowHosts) == 0 {
		problems = append(problems, errors.New("rego.ca is set, but rego.allow_hosts allows no host that it could verify; remove it"))
	}
	return problems
}
