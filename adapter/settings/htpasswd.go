package settings

import (
	"errors"
	"time"
)

// Htpasswd is a file of users and bcrypt hashes of their passwords. Zero durations take the defaults.
type Htpasswd struct {
	// File has a user in every line.
	File string `yaml:"file"`
	// MaxStale is how long the last good users count while the file cannot be read.
	MaxStale time.Duration `yaml:"max_stale"`
}

// WithDefaults returns the settings with the defaults in place of what is not set.
func (h Htpasswd) WithDefaults() Htpasswd {
	setDefault(&h.MaxStale, time.Hour)
	return h
}

func validateHtpasswd(files map[string]Htpasswd) []error {
	return validateNamed("htpasswd", "file", files, func(h Htpasswd) []error { return h.WithDefaults().validate() })
}

func (h Htpasswd) validate() (problems []error) {
	if h.File == "" {
		problems = append(problems, errors.New("file is missing; name a file that htpasswd made"))
	}
	return append(problems, outOf([]bound{{"max_stale", int64(h.MaxStale), int64(time.Minute), int64(168 * time.Hour), true}})...)
}
