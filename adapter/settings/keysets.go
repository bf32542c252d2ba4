package settings

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"time"
)

// KeySet is a set of keys that tokens are verified with, from a file or from a URL. Zero durations take the defaults.
type KeySet struct {
	// File has the JWK Set.
	File string `yaml:"file"`
	// URL is asked for the JWK Set; https, or http on this machine.
	URL string `yaml:"url"`
	// CA is a file of certificates that the URL's server is verified with, in place of the system's.
	CA string `yaml:"ca"`
	// Symmetric means that the file has HMAC keys.
	Symmetric bool `yaml:"symmetric"`
	// Refresh is how long keys count as fresh.
	Refresh time.Duration `yaml:"refresh"`
	// MinRefresh is the shortest time between two attempts, also where tokens name keys that are not there.
	MinRefresh time.Duration `yaml:"min_refresh"`
	// MaxStale is how long the last good keys are used while they cannot be refreshed.
	MaxStale time.Duration `yaml:"max_stale"`
	// Timeout bounds an attempt.
	Timeout time.Duration `yaml:"timeout"`
}

// WithDefaults returns the settings with the defaults in place of what is not set.
func (k KeySet) WithDefaults() KeySet {
	setDefault(&k.Refresh, 5*time.Minute)
	setDefault(&k.MinRefresh, 10*time.Second)
	setDefault(&k.MaxStale, max(time.Hour, 2*k.Refresh))
	setDefault(&k.Timeout, 5*time.Second)
	return k
}

func validateKeySets(sets map[string]KeySet) (problems []error) {
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		if !simpleName.MatchString(name) {
			problems = append(problems, fmt.Errorf("key_sets has %q; name a key set with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends", name))
		}
		for _, problem := range sets[name].WithDefaults().validate() {
			problems = append(problems, fmt.Errorf("key_sets.%s.%w", name, problem))
		}
	}
	return problems
}

func (k KeySet) validate() []error {
	var problems []error
	add := func(bad bool, text string) {
		if bad {
			problems = append(problems, errors.New(text))
		}
	}
	add(k.File == "" && k.URL == "", "file is missing; name a file with a JWK Set, or a url")
	add(k.File != "" && k.URL != "", "file stands beside url; keep the one that the keys come from")
	add(k.Symmetric && k.File == "", "symmetric is true; its keys are secrets, so take them from a file")
	if k.URL != "" {
		if err := checkURL(k.URL); err != nil {
			problems = append(problems, err)
		}
	}
	add(k.CA != "" && k.URL == "", "ca is set, but there is no url whose server it could verify; remove it")
	const shortest = 10 * time.Second
	return append(problems, outOf([]bound{
		{"refresh", int64(k.Refresh), int64(shortest), int64(24 * time.Hour), true},
		{"min_refresh", int64(k.MinRefresh), int64(time.Second), int64(min(max(k.Refresh, shortest), time.Hour)), true},
		{"max_stale", int64(k.MaxStale), int64(2 * k.Refresh), int64(168 * time.Hour), true},
		{"timeout", int64(k.Timeout), int64(100 * time.Millisecond), int64(time.Minute), true},
	})...)
}

// checkURL never shows the URL: a mistaken one may hold a credential.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return errors.New("url is none; write one such as https://idp.example.com/keys")
	case u.User != nil:
		return errors.New("url has a user or a password, which would be in logs; remove it")
	case u.Scheme == "https", u.Scheme == "http" && isThisMachine(u.Hostname()):
		return nil
	default:
		return errors.New("url must begin with https://, or others could give you their keys; http:// is for this machine alone, such as http://127.0.0.1")
	}
}

func isThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
