// Package clientname says which names in a client's certificate may call: SPIFFE ids (URI SANs) and DNS names (DNS SANs).
package clientname

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Pattern is one name that may call, or all names that differ from each other in one place only:
//
//   - a SPIFFE id such as spiffe://cluster.local/ns/istio-system/sa/mixer, or one that ends in /*, which stands for exactly one more
//     segment of the path;
//   - a DNS name such as mixer.example.org, or one that begins with *., which stands for exactly one more label, as in a certificate.
//
// A star anywhere else is an error, so no pattern allows more than its last segment or its first label leaves open.
type Pattern struct {
	// id or prefix, up to and with the last slash, is set for SPIFFE; name or suffix, from the first dot, for DNS.
	id, prefix, name, suffix string
}

// Parse reads a pattern.
func Parse(text string) (Pattern, error) {
	if strings.HasPrefix(text, "spiffe:") {
		return parseSPIFFE(text)
	}
	rest, wild := strings.CutPrefix(text, "*.")
	if !dnsName(rest) || wild && !strings.Contains(rest, ".") {
		return Pattern{}, fmt.Errorf("%.300q is no name; write spiffe://TRUST-DOMAIN/PATH, which may end in /*, or a DNS name in lower case, which may begin with *. for one label", text)
	}
	if wild {
		return Pattern{suffix: "." + rest}, nil
	}
	return Pattern{name: rest}, nil
}

func parseSPIFFE(text string) (Pattern, error) {
	rest, wild := strings.CutSuffix(text, "/*")
	id, err := spiffeid.FromString(rest)
	switch {
	case err != nil:
		return Pattern{}, fmt.Errorf("%.300q is no SPIFFE id: %w; a * stands for the last segment and nothing else", text, err)
	case wild:
		return Pattern{prefix: id.String() + "/"}, nil
	case id.Path() == "":
		return Pattern{}, fmt.Errorf("%.300q is a trust domain, not a caller's id; add the path, such as /ns/istio-system/sa/*", text)
	}
	return Pattern{id: id.String()}, nil
}

// dnsName reports whether a text is a DNS name in lower case, without a dot at its end.
func dnsName(text string) bool {
	if text == "" || len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// MatchSPIFFE reports whether the pattern is for the SPIFFE id.
func (p Pattern) MatchSPIFFE(id spiffeid.ID) bool {
	text := id.String()
	switch {
	case p.id != "":
		return text == p.id
	case p.prefix != "":
		segment, ok := strings.CutPrefix(text, p.prefix)
		return ok && segment != "" && !strings.Contains(segment, "/")
	}
	return false
}

// MatchDNS reports whether the pattern is for the DNS name, in any case. A wildcard in a certificate is nobody's name.
func (p Pattern) MatchDNS(name string) bool {
	name = strings.ToLower(name)
	switch {
	case !dnsName(name):
		return false
	case p.name != "":
		return name == p.name
	case p.suffix != "":
		label, ok := strings.CutSuffix(name, p.suffix)
		return ok && label != "" && !strings.Contains(label, ".")
	}
	return false
}

// List is the names that may call.
type List []Pattern

// ParseList reads patterns. The error names the place of the first that is none.
func ParseList(texts []string) (List, error) {
	list := make(List, 0, len(texts))
	for i, text := range texts {
		p, err := Parse(text)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		list = append(list, p)
	}
	return list, nil
}

// Caller returns who a verified certificate stands for, if the list has one of its names: the SPIFFE id, or else dns: and the first DNS
// name that the list has. A certificate with more than one URI is no SPIFFE identity, by SPIFFE's own rule.
func (l List) Caller(certificate *x509.Certificate) (caller string, ok bool) {
	if len(certificate.URIs) == 1 {
		if id, err := spiffeid.FromURI(certificate.URIs[0]); err == nil && slices.ContainsFunc(l, func(p Pattern) bool { return p.MatchSPIFFE(id) }) {
			return id.String(), true
		}
	}
	for _, name := range certificate.DNSNames {
		if slices.ContainsFunc(l, func(p Pattern) bool { return p.MatchDNS(name) }) {
			return "dns:" + strings.ToLower(name), true
		}
	}
	return "", false
}
