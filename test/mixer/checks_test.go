package mixer_test

import (
	"encoding/base64"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// fromAddress adds where a request comes from.
func fromAddress(attributes mesh.Attributes, address string) mesh.Attributes {
	return attributes.With(mesh.Attributes{"source.ip": netip.MustParseAddr(address)})
}

// replace puts a complete file in the place of another, as careful tools do.
func replace(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(content), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// testLists asks about values of every kind through Mixer's listentry template.
func testLists(t *testing.T, s *suite) {
	short := answer{codes.OK, 2 * time.Second, 10000}
	for _, c := range []struct {
		path, value string
		want        answer
	}{
		{"/listed-strings", "gold", short},
		{"/listed-strings", "Gold", denied},
		{"/listed-strings", "", denied},
		{"/listed-folded", "CURL", denied},
		{"/listed-folded", "Wget", allowed},
		{"/listed-folded", "", denied},
		{"/listed-patterns", "/admin/users", denied},
		{"/listed-patterns", "/administrator", allowed},
		{"/listed-patterns", strings.Repeat("a", 4000), allowed},
		{"/listed-patterns", strings.Repeat("a", 5000), denied}, // too long to compare
		{"/listed-addresses-text", "10.1.2.3", allowed},
		{"/listed-addresses-text", "11.1.2.3", denied},
		{"/listed-addresses-text", "10.1.2.3, 10.1.2.4", denied},
	} {
		s.expect(t, c.want, c.path, "x-custom-token", c.value)
	}
	s.expect(t, denied, "/listed-strings")
	s.expect(t, denied, "/listed-folded") // absent is on no list, and passes none
	s.expect(t, denied, "/listed-addresses-number")
	s.expect(t, denied, "/listed-strings-nothing")

	expect := func(want answer, path, address string) {
		t.Helper()
		v := s.check(t, fromAddress(request(path), address))
		assert.Equal(t, want.String(), answerOf(v).String(), "%s %s: %s", path, address, v.Message)
		assert.Contains(t, v.Referenced, "source.ip", "the proxies cache by what decides")
	}
	expect(allowed, "/listed-addresses", "10.255.0.1")
	expect(allowed, "/listed-addresses", "2001:db8::1")
	expect(allowed, "/listed-addresses", "::ffff:10.0.0.1")
	expect(denied, "/listed-addresses", "11.0.0.1")
	expect(denied, "/listed-source", "192.0.2.7")
	expect(allowed, "/listed-source", "198.51.100.1")
	expect(refused, "/listed-away", "198.51.100.1")
	expect(allowedOnce, "/listed-away-open", "198.51.100.1")
	expect(refused, "/listed-unknown", "198.51.100.1")

	// The list changes, and is broken then.
	replace(t, s.listFile, "198.51.100.0/24\n")
	s.await(t, "the changed list", fromAddress(request("/listed-source"), "198.51.100.1"), func(a answer) bool { return a == denied })
	expect(allowed, "/listed-source", "192.0.2.7")
	replace(t, s.listFile, "198.51.100.0/24\nnonsense\n")
	waitForLog(t, s.tollgate, `nonsense`)
	expect(denied, "/listed-source", "198.51.100.1")
	expect(allowed, "/listed-source", "192.0.2.7")
}

// waitForLog waits until Tollgate has written a text.
func waitForLog(t *testing.T, tollgate *mesh.Tollgate, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(tollgate.Log.String(), text) }, patience, 10*time.Millisecond)
}

// testAPIKeys presents keys through Mixer's apikey template.
func testAPIKeys(t *testing.T, s *suite) {
	s.expect(t, allowed, "/keyed", token("planted-secret")...)
	s.expect(t, allowed, "/keyed", token("planted-digest-key")...)
	s.expect(t, allowed, "/keyed-property", token("planted-secret")...)
	for _, path := range []string{"/keyed", "/keyed-property", "/keyed-rego", "/keyed-nothing"} {
		s.expect(t, denied, path, token("planted-wrong")...)
		s.expect(t, denied, path, token("")...)
		s.expect(t, denied, path)
	}
	s.expect(t, denied, "/keyed-nothing", token("planted-secret")...)

	s.expect(t, allowed, "/keyed-rego", "x-custom-token", "planted-digest-key", "x-method", "list")
	s.expect(t, denied, "/keyed-rego", "x-custom-token", "planted-digest-key", "x-method", "drop")
	s.expect(t, denied, "/keyed-rego", "x-custom-token", "planted-secret", "x-method", "list") // another's key

	// Revoked, and back for the scenarios that follow.
	revoked := func(a answer) bool { return a == denied }
	replace(t, s.secretFile, "planted-secret-2\n")
	s.await(t, "the revoked key", request("/keyed", token("planted-secret")...), revoked)
	s.expect(t, allowed, "/keyed", token("planted-secret-2")...)
	replace(t, s.secretFile, "planted-secret\n")
	s.await(t, "the key", request("/keyed", token("planted-secret")...), func(a answer) bool { return a == allowed })
}

// testNothing asks through Mixer's checknothing template.
func testNothing(t *testing.T, s *suite) {
	v := s.expect(t, denied, "/nothing-rego")
	assert.Contains(t, v.Message, "closed for repairs")
	s.expect(t, allowed, "/nothing-allowed")
	s.expect(t, denied, "/nothing-keyed", token("planted-key")...) // the template carries no header, and no failure mode opens that
	v = s.expect(t, refused, "/nothing-checked")
	assert.Contains(t, v.Message, "(configuration)")

	// The example, as it is.
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{})
	t.Cleanup(func() { assert.NoError(t, s.mixer.Delete("example-maintenance")) })
	meshtest.Apply(t, s.mixer, "example-maintenance", strings.ReplaceAll(readFile(t, root, "operatorconfig/examples/maintenance.yaml"), exampleAddress, tollgate.Addr))
	inbound := func(path string) mesh.Attributes {
		return request(path, "x-custom-token", "abc").With(mesh.Attributes{"context.reporter.kind": "inbound"})
	}
	s.await(t, "the example", inbound("/shop/7"), func(a answer) bool { return a.code == codes.PermissionDenied })
	assert.Contains(t, s.checkInTime(t, inbound("/shop/7")).Message, "The shop is closed for an hour")
	assert.Equal(t, codes.OK, s.checkInTime(t, inbound("/bookings/7")).Code)
}

// testCheckExamples applies the examples that need settings, each with an adapter that runs with the settings beside it.
func testCheckExamples(t *testing.T, s *suite) {
	unauthenticated := answer{codes.Unauthenticated, 0, 0}
	// The first example checks every inbound request, and bounds the uses.
	key := func(key, method string) mesh.Attributes {
		return request("/bookings/7", "x-custom-token", "abc", "x-api-key", key).With(mesh.Attributes{"context.reporter.kind": "inbound", "request.method": method, "request.time": time.Now()})
	}
	// The users of basic.yaml, and hashes of planted-wombat and planted-bob.
	const (
		alice = "alice:$2y$08$abcdefghijklmnopqrstuuPcmajw1v6NUQ9leHG.3qCgLP5b6x6Tu\n"
		bob   = "bob:$2y$08$ZZZZZZZZZZZZZZZZZZZZZ.VXEI5.AlLGx8lVsuLdExpF1q8JWgsjO\n"
	)
	login := func(user, password, method string) mesh.Attributes {
		headers := []string{"x-custom-token", "abc"}
		if user != "" {
			headers = append(headers, "authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
		}
		return request("/backoffice", headers...).With(mesh.Attributes{"context.reporter.kind": "inbound", "request.method": method})
	}
	address := func(path, address string) mesh.Attributes {
		attributes := request(path, "x-custom-token", "abc").With(mesh.Attributes{"context.reporter.kind": "inbound"})
		if address != "" {
			attributes = fromAddress(attributes, address)
		}
		return attributes
	}
	type row struct {
		request mesh.Attributes
		want    answer
	}
	for name, rows := range map[string][]row{
		"api-key": {
			{key("wombat-4711", "GET"), answer{codes.OK, 5 * time.Second, 1000}},
			{key("wombat-4711", "DELETE"), unauthenticated},
			{key("planted-crm-key", "DELETE"), answer{codes.OK, 5 * time.Second, 1000}},
			{key("planted-crm-old-key", "GET"), answer{codes.OK, 5 * time.Second, 1000}},
			{key("planted-wrong", "GET"), unauthenticated},
			{key("", "GET"), unauthenticated},
		},
		"list": {
			{address("/admin", "10.1.2.3"), answer{codes.OK, 2 * time.Second, 1000}},
			{address("/admin", "192.0.2.17"), answer{codes.OK, 2 * time.Second, 1000}},
			{address("/admin", "203.0.113.7"), denied},
			{address("/admin", ""), denied},
			{address("/reviews", "203.0.113.7"), answer{codes.OK, 2 * time.Second, 1000}},
			{address("/reviews", "198.51.100.7"), denied},
			{address("/admin", "10.6.6.6"), denied}, // an office's, and blocked
		},
		"basic": {
			{login("alice", "planted-wombat", "GET"), answer{codes.OK, 5 * time.Second, 1000}},
			{login("alice", "planted-wombat", "POST"), denied},
			{login("bob", "planted-bob", "POST"), answer{codes.OK, 5 * time.Second, 1000}},
			{login("alice", "planted-bob", "GET"), unauthenticated},
			{login("mallory", "planted-bob", "GET"), unauthenticated},
			{login("", "", "GET"), unauthenticated},
		},
	} {
		t.Run(name, func(t *testing.T) {
			directory := t.TempDir()
			for path, content := range map[string]string{
				"secrets/crm":       "planted-crm-old-key\nplanted-crm-key\n",
				"lists/blocked.txt": "# of today\n198.51.100.0/24\n10.6.6.6\n",
				"htpasswd/staff":    alice + bob,
			} {
				path = filepath.Join(directory, path)
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
				require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			}
			settings := strings.ReplaceAll(readFile(t, root, "operatorconfig/examples/"+name+".settings.yaml"), "/etc/tollgate", directory)
			tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Settings: settings, Args: []string{"--log-level", "debug"}})
			text := strings.ReplaceAll(readFile(t, root, "operatorconfig/examples/"+name+".yaml"), exampleAddress, tollgate.Addr)
			t.Cleanup(func() { assert.NoError(t, s.mixer.Delete("example-"+name)) })
			meshtest.Apply(t, s.mixer, "example-"+name, text)
			s.await(t, "the example", rows[0].request, func(a answer) bool { return a == rows[0].want })
			for _, r := range rows {
				v := s.checkDecided(t, r.request)
				got := answerOf(v)
				if got.code != codes.OK {
					// Where another handler allows, its lifetime is the merged denial's, if the denial came first.
					got.validFor, got.validUses = 0, 0
				}
				assert.Equal(t, r.want.String(), got.String(), "%v", r.request)
			}
			if name == "basic" {
				challenge := []mesh.HeaderOperation{{Name: "WWW-Authenticate", Value: `Basic realm="back office", charset="UTF-8"`, Operation: "REPLACE"}}
				assert.Equal(t, challenge, s.checkDecided(t, login("", "", "GET")).ResponseHeaders)
				replace(t, filepath.Join(directory, "htpasswd", "staff"), "# alice left\n"+bob)
				s.await(t, "alice to be gone", rows[0].request, func(a answer) bool { return a.code == codes.Unauthenticated })
				assert.Equal(t, codes.OK, s.checkDecided(t, login("bob", "planted-bob", "GET")).Code)
			}
			assert.NotContains(t, tollgate.Log.String(), "planted")
		})
	}
}
