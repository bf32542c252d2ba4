package settings

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
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

func validateLists(lists map[string]List) (problems []error) {
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		if !simpleName.MatchString(name) {
			problems = append(problems, fmt.Errorf("lists has %q; name a list with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends", name))
		}
		for _, problem := range lists[name].WithDefaults().validate() {
			problems = append(problems, fmt.Errorf("lists.%s.%w", name, problem))
		}
	}
	return problems
}

func (l List) validate() (problems []error) {
	add := func(bad bool, text string) {
		if bad {
			problems = append(problems, errors.New(text))
		}
	}
	if _, ok := config.ParseEntryType(l.Type); !ok {
		problems = append(problems, fmt.Errorf("type is %q; use strings, case_insensitive_strings, ip_addresses or regex", l.Type))
	}
	add(l.File == "" && l.URL == "", "file is missing; name a file with one entry a line, or a url")
	add(l.File != "" && l.URL != "", "file stands beside url; keep the one that the list comes from")
	if l.URL != "" {
		if err := checkListURL(l.URL); err != nil {
			problems = append(problems, err)
		}
	}
	add(l.CA != "" && l.URL == "", "ca is set, but there is no url whose server it could verify; remove it")
	return append(problems, outOf([]bound{
		{"refresh", int64(l.Refresh), int64(time.Second), int64(24 * time.Hour), true},
		{"max_stale", int64(l.MaxStale), int64(2 * l.Refresh), int64(168 * time.Hour), true},
		{"timeout", int64(l.Timeout), int64(100 * time.Millisecond), int64(time.Minute), true},
	})...)
}

// checkListURL never shows the URL: a mistaken one may hold a credential.
func checkListURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return errors.New("url is none; write one such as https://lists.example.com/blocked.txt")
	case u.User != nil:
		return errors.New("url has a user or a password, which would be in logs; remove it")
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	default:
		return errors.New("url must begin with https://, or others could give you their list; http:// is for this machine alone, such as http://127.0.0.1")
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
