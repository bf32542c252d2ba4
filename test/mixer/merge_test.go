package mixer_test

import (
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc/codes"

	"github.com/tollgate-mesh/tollgate/test/mixer/constant"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
)

// others are the answers of another adapter that a single-use answer must survive.
var others = []constant.Answer{
	{Code: codes.OK, ValidFor: 5 * time.Second, ValidUses: 0},
	{Code: codes.OK, ValidFor: 0, ValidUses: 0},
	{Code: codes.OK, ValidFor: time.Minute, ValidUses: 10000},
	{Code: codes.OK, ValidFor: 0, ValidUses: 1},
	{Code: codes.OK, ValidFor: 5 * time.Second, ValidUses: 1},
	{Code: codes.OK, ValidFor: 5 * time.Second, ValidUses: -1},
	{Code: codes.OK, ValidFor: -5 * time.Second, ValidUses: 0},
	{Code: codes.OK, ValidFor: -time.Second, ValidUses: 1},
	{Code: codes.PermissionDenied, ValidFor: 0, ValidUses: 0},
	{Code: codes.PermissionDenied, ValidFor: 5 * time.Second, ValidUses: 10},
}

// once is Tollgate's single-use answer.
var once = constant.Answer{Code: codes.OK, ValidFor: -time.Second, ValidUses: 1}

// testMerge has a second, real adapter answer beside Tollgate. Mixer asks both at once and folds their answers in the
// order in which they come: the minimum of each field, where an OK of 0/0 that comes first counts as no answer at all.
func testMerge(t *testing.T, s *suite) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TOLLGATE\tOTHER ADAPTER\tFIRST\tWHAT ARRIVED")
	for _, other := range others {
		name := fmt.Sprintf("%v (%v, %d)", other.Code, other.ValidFor, other.ValidUses)
		t.Run(name, func(t *testing.T) {
			for _, order := range []struct{ first, path string }{
				{"Tollgate", "/once-then-constant-late"},
				{"other", "/constant-then-once-late"},
			} {
				started := time.Now()
				var v *mesh.Verdict
				check := func() {
					v = s.check(t, request(order.path, "x-custom-token", "planted-key", "x-constant", other.String()))
				}
				if other == (constant.Answer{}) {
					s.inOrder(check)
				} else {
					check() // the minimum of the two is the same in either order
				}
				assert.GreaterOrEqual(t, time.Since(started), late, "the later of the two was not waited for")
				_, _ = fmt.Fprintf(w, "OK (-1s, 1)\t%s\t%s\t%v (%v, %d)\n", name, order.first, v.Code, v.ValidFor, v.ValidUses)

				assert.Equal(t, other.Code, v.Code, "%s first", order.first)
				// A proxy keeps an answer until its duration is over, so one that lies in the past is never reused,
				// whatever became of the count.
				assert.Negative(t, v.ValidFor, "%s first: %v", order.first, v)
				want := merged(once, other)
				if order.first == "other" {
					want = merged(other, once)
				}
				assert.Equal(t, want.String(), answerOf(v).String(), "%s first", order.first)
			}
		})
	}
	t.Run("reusable", func(t *testing.T) {
		// What Mixer makes of a reusable allow beside another's answer is never longer than the allow, but for its own minute, below.
		reusable := constant.Answer{Code: codes.OK, ValidFor: allowed.validFor, ValidUses: allowed.validUses}
		for _, other := range others {
			if other == (constant.Answer{}) {
				continue
			}
			for _, order := range []struct {
				first, path string
				want        answer
			}{
				{"Tollgate", "/reusable-then-constant-late", merged(reusable, other)},
				{"other", "/constant-then-reusable-late", merged(other, reusable)},
			} {
				v := s.check(t, request(order.path, "x-custom-token", "planted-key", "x-constant", other.String()))
				_, _ = fmt.Fprintf(w, "OK (5s, 10000)\t%v (%v, %d)\t%s\t%v (%v, %d)\n", other.Code, other.ValidFor, other.ValidUses, order.first, v.Code, v.ValidFor, v.ValidUses)
				assert.Equal(t, order.want.String(), answerOf(v).String(), "%s first, %v", order.first, other)
				assert.LessOrEqual(t, v.ValidFor, reusable.ValidFor)
			}
		}
	})
	t.Run("two of Tollgate's", func(t *testing.T) {
		v := s.expect(t, allowedOnce, "/once-then-once-late", token("planted-key")...)
		_, _ = fmt.Fprintf(w, "OK (-1s, 1)\tTollgate, OK (-1s, 1)\tany\t%v (%v, %d)\n", v.Code, v.ValidFor, v.ValidUses)
		s.expect(t, answer{codes.PermissionDenied, 0, 0}, "/once-then-once-late", token("planted-wrong")...)
	})
	t.Run("reusable, and Mixer's own minute", func(t *testing.T) {
		// No form of a reusable allow survives another adapter's empty OK that comes after it: the minimum of the
		// two is 0/0, and Mixer makes its minute of that. Only Mixer or that adapter could do better.
		empty := constant.Answer{}
		for _, order := range []struct {
			first, path string
			want        answer
		}{
			{"Tollgate", "/reusable-then-constant-late", mixersOwn},
			{"other", "/constant-then-reusable-late", allowed},
		} {
			var v *mesh.Verdict
			s.inOrder(func() {
				v = s.checkFreely(t, request(order.path, "x-custom-token", "planted-key", "x-constant", empty.String()))
			})
			_, _ = fmt.Fprintf(w, "OK (5s, 10000)\tOK (0s, 0)\t%s\t%v (%v, %d)\n", order.first, v.Code, v.ValidFor, v.ValidUses)
			assert.Equal(t, order.want.String(), answerOf(v).String(), "%s first", order.first)
			// A denial is safe either way.
			v = s.check(t, request(order.path, "x-custom-token", "planted-wrong", "x-constant", empty.String()))
			assert.Equal(t, denied.String(), answerOf(v).String(), "%s first", order.first)
		}
	})
	_ = w.Flush()
	t.Logf("what Mixer %s makes of two answers:\n%s", s.mixer.Version, table.String())
}

// merged is how Mixer folds two answers.
func merged(first, second constant.Answer) answer {
	if first == (constant.Answer{}) {
		return answer{second.Code, second.ValidFor, second.ValidUses}
	}
	code := first.Code
	if code == codes.OK {
		code = second.Code
	}
	return answer{code, min(first.ValidFor, second.ValidFor), min(first.ValidUses, second.ValidUses)}
}
