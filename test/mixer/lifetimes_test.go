package mixer_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
)

// testLifetimes compares what Mixer tells a proxy about each outcome. check, which all of them use, takes Mixer's own
// minute for an error.
func testLifetimes(t *testing.T, s *suite) {
	right, wrong := token("planted-key"), token("planted-wrong")
	user := func(name string) []string { return []string{"x-user", name} }
	for _, c := range []struct {
		name    string
		handler string
		headers []string
		want    answer
	}{
		{"allow, by default", "lifetime-default", right, allowed},
		{"deny, by default", "lifetime-default", wrong, denied},
		{"allow, as stated", "lifetime-stated", right, answer{codes.OK, 30 * time.Second, 500}},
		{"deny beside a stated allow", "lifetime-stated", wrong, denied},
		{"allow, duration alone stated", "lifetime-stated-in-part", right, answer{codes.OK, 1500 * time.Millisecond, 10000}},
		{"allow, single-use", "lifetime-single-use", right, allowedOnce},
		{"allow beside a stated deny", "lifetime-of-denials", right, allowed},
		{"deny, as stated", "lifetime-of-denials", wrong, answer{codes.PermissionDenied, 2 * time.Second, 7}},
		{"failed open", "lifetime-failed-open", nil, allowedOnce},
		{"failed closed", "lifetime-failed-closed", nil, refused},
		{"allow, as the policy states", "lifetime-from-rego", user("stated"), answer{codes.OK, 2 * time.Second, 3}},
		{"allow, as the policy states in part", "lifetime-from-rego", user("in-part"), answer{codes.OK, 3 * time.Second, 500}},
		{"allow, a policy that asks for more", "lifetime-from-rego", user("longer"), answer{codes.OK, 30 * time.Second, 500}},
		{"allow, single-use by policy", "lifetime-from-rego", user("single-use"), allowedOnce},
		{"allow, a policy that is silent", "lifetime-from-rego", user("silent"), answer{codes.OK, 30 * time.Second, 500}},
		{"deny by policy", "lifetime-from-rego", user("nobody"), answer{codes.PermissionDenied, time.Second, 2}},
		{"allow by the clock", "lifetime-from-clock", nil, allowedOnce},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.expect(t, c.want, "/"+c.handler, c.headers...)
		})
	}
}

func testDenials(t *testing.T, s *suite) {
	headersOf := func(t *testing.T, path string, headers ...string) (status int, body, message string, got map[string]string) {
		t.Helper()
		v := s.check(t, request(path, headers...))
		if !assert.NotNil(t, v.Direct, "%v", v) {
			t.FailNow()
		}
		got = map[string]string{}
		for _, h := range v.ResponseHeaders {
			got[h.Name] = h.Value
		}
		return v.Direct.Code, v.Direct.Body, v.Message, got
	}
	t.Run("401", func(t *testing.T) {
		s.expect(t, answer{code: codes.Unauthenticated}, "/denial-401", token("planted-wrong")...)
		status, body, message, headers := headersOf(t, "/denial-401")
		assert.Equal(t, 401, status)
		assert.Equal(t, "<p>log in first</p>", body)
		assert.Equal(t, "denial-401.handler.istio-system:log in first", message)
		assert.Equal(t, map[string]string{"WWW-Authenticate": `Bearer realm="shop"`, "Content-Type": "text/html", "ETag": `"7"`}, headers)

		v := s.expect(t, allowed, "/denial-401", token("planted-key")...)
		assert.Nil(t, v.Direct, "an allowed request gets no reply")
		assert.Empty(t, v.ResponseHeaders)
	})
	t.Run("302", func(t *testing.T) {
		s.expect(t, denied, "/denial-302", token("planted-wrong")...)
		status, body, _, headers := headersOf(t, "/denial-302")
		assert.Equal(t, 302, status)
		assert.Empty(t, body)
		assert.Equal(t, map[string]string{"Location": "https://login.example.com/?back=shop"}, headers)
	})
	t.Run("from Rego", func(t *testing.T) {
		s.expect(t, answer{code: codes.ResourceExhausted}, "/denial-from-rego")
		status, body, message, headers := headersOf(t, "/denial-from-rego")
		assert.Equal(t, 429, status)
		assert.Equal(t, "later", body)
		assert.Equal(t, "denial-from-rego.handler.istio-system:slow down", message)
		assert.Equal(t, map[string]string{"Retry-After": "7"}, headers)
	})
}
