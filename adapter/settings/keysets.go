package settings

import (
	"errors"
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

func validateKeySets(sets map[string]KeySet) []error {
	return validateNamed("key_sets", "key set", sets, func(k KeySet) []error { return k.WithDefaults().validate() })
}

func (k KeySet) validate() (problems []error) {
	const shortest = 10 * time.Second
	problems = document{
		file: k.File, url: k.URL, ca: k.CA, refresh: k.Refresh, maxStale: k.MaxStale, timeout: k.Timeout, leastRefresh: shortest,
		content: "a JWK Set", what: "keys", come: "come", example: "https://idp.example.com/keys",
	}.validate()
	if k.Symmetric && k.File == "" {
		problems = append(problems, errors.New("symmetric is true; its keys are secrets, so take them from a file"))
	}
	return append(problems, outOf([]bound{
		{"min_refresh", int64(k.MinRefresh), int64(time.Second), int64(min(max(k.Refresh, shortest), time.Hour)), true},
	})...)
}
