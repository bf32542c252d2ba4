package settings

import (
	"fmt"
	"time"

	"github.com/tollgate-mesh/tollgate/config"
)

// List is a list that checks look into, from a file or from a URL. Zero durations take the defaults.
type List struct {
	// Type is what the entries are: strings, case_insensitive_strings, ip_addresses or regex.
	Type string `yaml:"type"`
	// File has one entry a line.
	File string `yaml:"file"`
	// URL is asked for the same; https, or http on this machine.
	URL string `yaml:"url"`
	// CA is a file of certificates that the URL's server is verified with, in place of the system's.
	CA string `yaml:"ca"`
	// Refresh is how long the list counts as fresh.
	Refresh time.Duration `yaml:"refresh"`
	// MaxStale is how long the last good list counts while it cannot be refreshed.
	MaxStale time.Duration `yaml:"max_stale"`
	// Timeout bounds an attempt.
	Timeout time.Duration `yaml:"timeout"`
}

// WithDefaults returns the settings with the defaults in place of what is not set.
func (l List) WithDefaults() List {
	setDefault(&l.Type, config.Strings.String())
	setDefault(&l.Refresh, 5*time.Minute)
	setDefault(&l.MaxStale, max(time.Hour, 2*l.Refresh))
	setDefault(&l.Timeout, 10*time.Second)
	return l
}

func validateLists(lists map[string]List) []error {
	return validateNamed("lists", "list", lists, func(l List) []error { return l.WithDefaults().validate() })
}

func (l List) validate() (problems []error) {
	if _, ok := config.ParseEntryType(l.Type); !ok {
		problems = append(problems, fmt.Errorf("type is %q; use strings, case_insensitive_strings, ip_addresses or regex", l.Type))
	}
	return append(problems, document{
		file: l.File, url: l.URL, ca: l.CA, refresh: l.Refresh, maxStale: l.MaxStale, timeout: l.Timeout, leastRefresh: time.Second,
		content: "one entry a line", what: "list", come: "comes", example: "https://lists.example.com/blocked.txt",
	}.validate()...)
}
