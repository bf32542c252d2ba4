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

// document is what settings say of a document that is followed, and the words for it.
type document struct {
	file, url, ca              string
	refresh, maxStale, timeout time.Duration
	// leastRefresh is the least that refresh may be.
	leastRefresh time.Duration
	// content is what the file has; what and come make "the keys come from"; example is a URL of one.
	content, what, come, example string
}

func (d document) validate() (problems []error) {
	add := func(bad bool, text string) {
		if bad {
			problems = append(problems, errors.New(text))
		}
	}
	add(d.file == "" && d.url == "", "file is missing; name a file with "+d.content+", or a url")
	add(d.file != "" && d.url != "", fmt.Sprintf("file stands beside url; keep the one that the %s %s from", d.what, d.come))
	if d.url != "" {
		if err := checkURL(d.url, d.what, d.example); err != nil {
			problems = append(problems, err)
		}
	}
	add(d.ca != "" && d.url == "", "ca is set, but there is no url whose server it could verify; remove it")
	return append(problems, outOf([]bound{
		{"refresh", int64(d.refresh), int64(d.leastRefresh), int64(24 * time.Hour), true},
		{"max_stale", int64(d.maxStale), int64(2 * d.refresh), int64(168 * time.Hour), true},
		{"timeout", int64(d.timeout), int64(100 * time.Millisecond), int64(time.Minute), true},
	})...)
}

// checkURL says what is wrong with a URL, after its key, which ends in url. It never shows the URL: a mistaken one may hold a credential.
func checkURL(text, what, example string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return fmt.Errorf("url is none; write one such as %s", example)
	case u.User != nil:
		return errors.New("url has a user or a password, which would be in logs; remove it")
	case u.Scheme == "https", u.Scheme == "http" && ThisMachine(u.Hostname()):
		return nil
	default:
		return fmt.Errorf("url must begin with https://, or others could give you their %s; http:// is for this machine alone, such as http://127.0.0.1", what)
	}
}

// ThisMachine reports whether a host is this machine for sure. Of names only localhost is believed.
func ThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// validateNamed checks the settings of one kind that have names, which are metric labels. One of the kind is called what.
func validateNamed[T any](key, what string, all map[string]T, validate func(T) []error) (problems []error) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !simpleName.MatchString(name) {
			problems = append(problems, fmt.Errorf("%s has %q; name a %s with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends", key, name, what))
		}
		for _, problem := range validate(all[name]) {
			problems = append(problems, fmt.Errorf("%s.%s.%w", key, name, problem))
		}
	}
	return problems
}
