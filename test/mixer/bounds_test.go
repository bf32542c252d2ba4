package mixer_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"
)

// testBounds compares what Mixer tells a proxy where several things bound an answer at once: the handler, a token close to its end, a
// policy, a list, a failure, another handler. adapter/policy/testdata has the table of all combinations.
func testBounds(t *testing.T, s *suite) {
	p := s.idp
	// Of these keys no other scenario takes one away.
	ends := func(in time.Duration) string {
		return p.token(t, "RS256", "rsa", map[string]any{"exp": time.Now().Add(in).Unix()})
	}
	long, ended := ends(2*time.Hour), ends(-time.Second)
	s.await(t, "the keys", request("/bounds-token", token(long)...), func(a answer) bool { return a.code == codes.OK })
	for name, c := range map[string]struct {
		path, token, user string
		want              answer
	}{
		"handler alone":                    {"/bounds-token", long, "", answer{codes.OK, time.Hour, 77}},
		"token within its leeway":          {"/bounds-token", ended, "", allowedOnce},
		"list beside a token":              {"/bounds-all", long, "", answer{codes.OK, 30 * time.Second, 77}},
		"policy beside both":               {"/bounds-all", long, "short", answer{codes.OK, time.Second, 5}},
		"single-use policy beside both":    {"/bounds-all", long, "single-use", allowedOnce},
		"token within its leeway, of all":  {"/bounds-all", ended, "short", allowedOnce},
		"any, and the token is enough":     {"/bounds-any", long, "", answer{codes.OK, time.Hour, 77}},
		"any, and the token says no":       {"/bounds-any", "planted-wrong", "", answer{codes.OK, 30 * time.Second, 77}},
		"failure opened":                   {"/bounds-opened", long, "", allowedOnce},
		"failure closed":                   {"/bounds-closed", long, "", refused},
		"two handlers":                     {"/bounds-of-two", long, "", answer{codes.OK, 5 * time.Second, 77}},
		"two handlers, one short":          {"/bounds-of-two", long, "short", answer{codes.OK, time.Second, 5}},
		"two handlers, one single-use":     {"/bounds-of-two", long, "single-use", allowedOnce},
		"two handlers, token in leeway":    {"/bounds-of-two", ended, "", allowedOnce},
		"two handlers, both without reuse": {"/bounds-of-two", ended, "single-use", allowedOnce},
	} {
		t.Run(name, func(t *testing.T) {
			v := s.check(t, request(c.path, "x-custom-token", c.token, "x-user", c.user))
			got := answerOf(v)
			if name == "list beside a token" {
				// Its policy says nothing of reuse, and what it took is off what the list said.
				assert.Positive(t, got.validFor)
				assert.LessOrEqual(t, got.validFor, c.want.validFor)
				got.validFor = c.want.validFor
			}
			assert.Equal(t, c.want.String(), got.String(), v.Message)
		})
	}
	t.Run("token close to its end", func(t *testing.T) {
		const left = 4 * time.Second
		for path, longest := range map[string]time.Duration{"/bounds-token": left, "/bounds-of-two": left, "/bounds-all": left} {
			soon := ends(left)
			for range 2 { // the second time the token is known
				v := s.check(t, request(path, token(soon)...))
				assert.Equal(t, codes.OK, v.Code, v.Message)
				assert.LessOrEqual(t, v.ValidFor, longest, path)
				assert.NotZero(t, v.ValidFor, "Mixer would make a minute of it")
			}
		}
	})
}
