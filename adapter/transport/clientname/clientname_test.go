package clientname_test

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/transport/clientname"
)

const mixer = "spiffe://cluster.local/ns/istio-system/sa/istio-mixer-service-account"

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern   string
		yes, noes []string
	}{
		{
			mixer,
			[]string{mixer},
			[]string{mixer + "2", mixer + "/x", "spiffe://cluster.local/ns/istio-system/sa/Istio-mixer-service-account", "spiffe://cluster.local", "istio-mixer-service-account"},
		},
		{
			"spiffe://cluster.local/ns/istio-system/sa/*",
			[]string{mixer, "spiffe://cluster.local/ns/istio-system/sa/a"},
			[]string{
				"spiffe://cluster.local/ns/istio-system/sa", "spiffe://cluster.local/ns/istio-system/sa/a/b", "spiffe://cluster.local/ns/istio-systemx/sa/a",
				"spiffe://cluster.local.evil/ns/istio-system/sa/a", "spiffe://evil/cluster.local/ns/istio-system/sa/a", "spiffe://cluster.local/ns/istio-system/sax/a",
			},
		},
		{"spiffe://cluster.local/*", []string{"spiffe://cluster.local/a"}, []string{mixer, "spiffe://cluster.local", "spiffe://cluster.locals/a"}},
		{"mixer.example.org", []string{"mixer.example.org", "MIXER.example.ORG"}, []string{"amixer.example.org", "mixer.example.org.", "a.mixer.example.org", "*.example.org", mixer}},
		{"*.example.org", []string{"mixer.example.org", "a.example.org"}, []string{"example.org", ".example.org", "a.b.example.org", "*.example.org", "a.example.org.evil", "aexample.org", "spiffe://a.example.org"}},
		{"mixer", []string{"mixer"}, []string{"mixers", "a.mixer", "spiffe://mixer/a"}},
	} {
		p, err := clientname.Parse(c.pattern)
		require.NoError(t, err, c.pattern)
		for _, name := range c.yes {
			assert.True(t, match(p, name), "%s is for %s", c.pattern, name)
		}
		for _, name := range c.noes {
			assert.False(t, match(p, name), "%s is not for %s", c.pattern, name)
		}
	}
}

// match is how a name in a certificate is matched: as an id if it is one, else as a DNS name.
func match(p clientname.Pattern, name string) bool {
	if id, err := spiffeid.FromString(name); err == nil {
		return p.MatchSPIFFE(id) || p.MatchDNS(name)
	}
	return p.MatchDNS(name)
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "*", "*.", "**", "*.*", "*.org", "a.*", "a*.example.org", "*a.example.org", "a.*.org", ".example.org", "example.org.", "a..b", "Mixer.example.org", "mixer example.org",
		"-a.org", "a-.org", strings.Repeat("a", 64) + ".org", strings.Repeat("a.", 130) + "org", "https://example.org/a",
		"spiffe://", "spiffe:///a", "spiffe://*", "spiffe://*/a", "spiffe://cluster.local", "spiffe://cluster.local/", "spiffe://cluster.local/a/", "spiffe://cluster.local/a//b",
		"spiffe://cluster.local/**", "spiffe://cluster.local/a*", "spiffe://cluster.local/*/a", "spiffe://cluster.local/../a", "spiffe://cluster.local/a/*/*", "spiffe://Cluster.local/a",
		"spiffe://cluster.local:80/a", "spiffe://user@cluster.local/a", "spiffe://cluster.local/a?b", "spiffe://cluster.local/a#b", "spiffe://cluster.local/%61", "spiffe:cluster.local/a", "SPIFFE://cluster.local/a",
	} {
		_, err := clientname.Parse(text)
		require.Error(t, err, "%q", text)
	}
	_, err := clientname.ParseList([]string{"mixer", "*"})
	assert.ErrorContains(t, err, `[1]: "*" is no name; write spiffe://`)
}

func TestCaller(t *testing.T) {
	t.Parallel()
	list, err := clientname.ParseList([]string{"spiffe://cluster.local/ns/istio-system/sa/*", "*.example.org", "plain"})
	require.NoError(t, err)
	for name, c := range map[string]struct {
		uris, dns []string
		want      string
	}{
		"SPIFFE id":                {uris: []string{mixer}, want: mixer},
		"SPIFFE id before DNS":     {uris: []string{mixer}, dns: []string{"plain"}, want: mixer},
		"two URIs are nobody":      {uris: []string{mixer, mixer}},
		"two URIs leave DNS names": {uris: []string{mixer, "https://example.org"}, dns: []string{"plain"}, want: "dns:plain"},
		"second DNS name":          {dns: []string{"other", "A.example.org"}, want: "dns:a.example.org"},
		"another id":               {uris: []string{"spiffe://cluster.local/ns/default/sa/a"}},
		"an encoded id":            {uris: []string{"spiffe://cluster.local/ns/istio-system/sa/%2e%2e"}},
		"no names":                 {},
		"a wildcard":               {dns: []string{"*.example.org"}},
		"a subject's name only":    {dns: nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate := &x509.Certificate{DNSNames: c.dns}
			certificate.Subject.CommonName = "plain"
			for _, uri := range c.uris {
				parsed, err := url.Parse(uri)
				require.NoError(t, err)
				certificate.URIs = append(certificate.URIs, parsed)
			}
			got, ok := list.Caller(certificate)
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.want != "", ok)
		})
	}
}

// Whatever a pattern matches differs from it in the place of the star only, and the star stands for something that does not reach on.
func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{
		{"spiffe://cluster.local/ns/istio-system/sa/*", mixer},
		{mixer, mixer},
		{"*.example.org", "a.example.org"},
		{"a.example.org", "A.EXAMPLE.org"},
		{"spiffe://a/*", "spiffe://a/b/c"},
		{"*.a.b", "a.b"},
		{"spiffe://a/*", "spiffe://a/%2f"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := clientname.Parse(pattern)
		if err != nil {
			require.Equal(t, clientname.Pattern{}, p)
			return
		}
		if !strings.Contains(pattern, "*") {
			require.True(t, match(p, pattern), "a name without a star is for itself")
		}
		if !match(p, name) {
			return
		}
		switch {
		case strings.HasSuffix(pattern, "/*"):
			rest, ok := strings.CutPrefix(name, strings.TrimSuffix(pattern, "*"))
			require.True(t, ok && rest != "" && !strings.ContainsAny(rest, "/%?#*"), "%s matches %s", pattern, name)
		case strings.HasPrefix(pattern, "*."):
			rest, ok := strings.CutSuffix(strings.ToLower(name), strings.TrimPrefix(pattern, "*"))
			require.True(t, ok && rest != "" && !strings.ContainsAny(rest, "./*"), "%s matches %s", pattern, name)
		case strings.HasPrefix(pattern, "spiffe:"):
			require.Equal(t, pattern, name)
		default:
			require.Equal(t, pattern, strings.ToLower(name))
		}
	})
}
