package basic_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/basic"
	"github.com/tollgate-mesh/tollgate/config"
)

// Hashes that libxcrypt's crypt(3) made.
const (
	wombat = "$2y$05$abcdefghijklmnopqrstuukqWvEbofmMriqkf/BobvTmwuU8kStc." // wombat-4711
	gruess = "$2y$05$abcdefghijklmnopqrstuumyWbNBCs7KPrU8PNnJmFt51q6SrK5Ni" // grüße:x
	bobs   = "$2y$06$ZZZZZZZZZZZZZZZZZZZZZ.NnQ9TM.kD56Vns3A5BXktHa.pCik3Cm" // bob-secret
)

const staff = "# of the shop\nalice:" + wombat + "\r\n\nbob:" + bobs + "\nzoë:" + gruess + "\n" +
	"b:$2b" + "$05$abcdefghijklmnopqrstuukqWvEbofmMriqkf/BobvTmwuU8kStc.\n" + "a:$2a" + "$05$abcdefghijklmnopqrstuukqWvEbofmMriqkf/BobvTmwuU8kStc."

// files are htpasswd files that a test changes.
type files map[string]*file

func (f files) File(name string) (basic.File, bool) {
	found, ok := f[name]
	if !ok {
		return nil, false
	}
	return found, true
}

type file struct {
	users atomic.Pointer[basic.Users]
	err   error
}

func (f *file) Users() (*basic.Users, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.users.Load(), nil
}

func (f *file) hold(tb testing.TB, document string) *file {
	tb.Helper()
	users, err := basic.ParseUsers([]byte(document))
	require.NoError(tb, err)
	f.users.Store(users)
	return f
}

func ofStaff(tb testing.TB) *file {
	tb.Helper()
	return (&file{}).hold(tb, staff)
}

var property = config.Property{Name: "authorization"}

type recaller interface {
	policy.Check
	policy.Recaller
}

func compile(tb testing.TB, f *file) recaller {
	tb.Helper()
	checks, problems := basic.Kind{Files: files{"staff": f}, Verifier: basic.NewVerifier(256)}.Compile(&config.Handler{
		Basic:  []config.BasicCheck{{Name: "authorization", Property: property, Users: "staff", Realm: "shop"}},
		Denial: config.Denial{Code: config.PermissionDenied, Message: "no", HTTP: &config.HTTPResponse{Headers: map[string]string{"x": "y"}}},
	})
	require.Empty(tb, problems)
	require.Len(tb, checks, 1)
	check, ok := checks[0].(recaller)
	require.True(tb, ok)
	return check
}

func presenting(value string) *policy.Request {
	return &policy.Request{Subject: &policy.Subject{Properties: attribute.Map{{Name: "authorization", Value: attribute.OfText(attribute.String, value)}}}}
}

func encoded(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func as(user, password string) *policy.Request {
	return presenting("Basic " + encoded(user+":"+password))
}

func TestEvaluate(t *testing.T) {
	t.Parallel()
	check := compile(t, ofStaff(t))
	assert.Equal(t, "basic/authorization", check.Name())
	alice := encoded("alice:wombat-4711")
	for name, c := range map[string]struct {
		request *policy.Request
		want    string
		user    string
	}{
		"right":             {as("alice", "wombat-4711"), basic.ReasonValid, "alice"},
		"$2a$":              {as("a", "wombat-4711"), basic.ReasonValid, "a"},
		"$2b$":              {as("b", "wombat-4711"), basic.ReasonValid, "b"},
		"colon and UTF-8":   {as("zoë", "grüße:x"), basic.ReasonValid, "zoë"},
		"scheme in capital": {presenting("BASIC " + alice), basic.ReasonValid, "alice"},
		"several spaces":    {presenting("basic    " + alice), basic.ReasonValid, "alice"},

		"wrong":                {as("alice", "wombat-4712"), basic.ReasonWrongPassword, ""},
		"another's":            {as("alice", "bob-secret"), basic.ReasonWrongPassword, ""},
		"cut off":              {as("alice", "wombat-471"), basic.ReasonWrongPassword, ""},
		"longer":               {as("alice", "wombat-47110"), basic.ReasonWrongPassword, ""},
		"other capitals":       {as("alice", "Wombat-4711"), basic.ReasonWrongPassword, ""},
		"the hash":             {as("alice", wombat), basic.ReasonWrongPassword, ""},
		"nobody":               {as("mallory", "wombat-4711"), basic.ReasonUnknownUser, ""},
		"name in capitals":     {as("Alice", "wombat-4711"), basic.ReasonUnknownUser, ""},
		"name with space":      {as("alice ", "wombat-4711"), basic.ReasonUnknownUser, ""},
		"a comment's name":     {as("# of the shop\nalice", "wombat-4711"), basic.ReasonMalformed, ""},
		"nothing":              {&policy.Request{}, basic.ReasonAbsent, ""},
		"empty":                {presenting(""), basic.ReasonAbsent, ""},
		"another scheme":       {presenting("Bearer " + alice), basic.ReasonAbsent, ""},
		"no scheme":            {presenting(alice), basic.ReasonAbsent, ""},
		"space before":         {presenting(" Basic " + alice), basic.ReasonAbsent, ""},
		"tab":                  {presenting("Basic\t" + alice), basic.ReasonAbsent, ""},
		"scheme alone":         {presenting("Basic"), basic.ReasonMalformed, ""},
		"scheme and space":     {presenting("Basic "), basic.ReasonMalformed, ""},
		"space after":          {presenting("Basic " + alice + " "), basic.ReasonMalformed, ""},
		"two":                  {presenting("Basic " + alice + ", Basic " + alice), basic.ReasonMalformed, ""},
		"no base64":            {presenting("Basic alice:wombat-4711"), basic.ReasonMalformed, ""},
		"no padding":           {presenting("Basic " + strings.TrimRight(alice, "=")), basic.ReasonMalformed, ""},
		"line break":           {presenting("Basic " + alice[:8] + "\n" + alice[8:]), basic.ReasonMalformed, ""},
		"loose bits":           {presenting("Basic " + "YTpi" + "Yh=="), basic.ReasonMalformed, ""},
		"URL alphabet":         {presenting("Basic " + base64.URLEncoding.EncodeToString([]byte("alice:\u00ff\u00fe\u00ff"))), basic.ReasonMalformed, ""},
		"no colon":             {presenting("Basic " + encoded("alice")), basic.ReasonMalformed, ""},
		"no name":              {as("", "wombat-4711"), basic.ReasonMalformed, ""},
		"no password":          {as("alice", ""), basic.ReasonMalformed, ""},
		"NUL":                  {as("alice", "wombat-4711\x00"), basic.ReasonMalformed, ""},
		"NUL in the name":      {as("alice\x00", "wombat-4711"), basic.ReasonMalformed, ""},
		"DEL":                  {as("alice", "wombat\x7f"), basic.ReasonMalformed, ""},
		"C1":                   {as("alice", "wombat\u0085"), basic.ReasonMalformed, ""},
		"Latin-1":              {as("zo\xeb", "x"), basic.ReasonMalformed, ""},
		"longest password":     {as("alice", strings.Repeat("x", 72)), basic.ReasonWrongPassword, ""},
		"too long a password":  {as("alice", strings.Repeat("x", 73)), basic.ReasonMalformed, ""},
		"longest name":         {as(strings.Repeat("x", 128), "x"), basic.ReasonUnknownUser, ""},
		"too long a name":      {as(strings.Repeat("x", 129), "x"), basic.ReasonMalformed, ""},
		"far too long":         {presenting("Basic " + strings.Repeat("A", 1<<20)), basic.ReasonMalformed, ""},
		"of too many spaces":   {presenting("Basic " + strings.Repeat(" ", 2000) + alice), basic.ReasonMalformed, ""},
		"a number":             {&policy.Request{Subject: &policy.Subject{Properties: attribute.Map{{Name: "authorization", Value: attribute.OfInt64(1)}}}}, basic.ReasonMalformed, ""},
		"another property":     {&policy.Request{Action: &policy.Action{Properties: as("alice", "wombat-4711").Subject.Properties}}, basic.ReasonAbsent, ""},
		"bcrypt's 72 and more": {as("alice", "wombat-4711"+strings.Repeat("\t", 70)), basic.ReasonMalformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 2 { // the second time it is remembered
				v := check.Evaluate(t.Context(), c.request)
				require.Equal(t, c.want, v.Reason)
				assert.Equal(t, c.user, v.Identity)
				assert.Nil(t, v.Failure)
				if c.want == basic.ReasonValid {
					assert.Equal(t, policy.Passed, v.Result)
					continue
				}
				assert.Equal(t, policy.Denied, v.Result)
				assert.Equal(t, &config.Denial{Code: config.Unauthenticated, Message: "no", HTTP: &config.HTTPResponse{Status: http.StatusUnauthorized, Headers: map[string]string{
					"WWW-Authenticate": `Basic realm="shop", charset="UTF-8"`, "x": "y",
				}}}, v.Denial)
			}
			recalled, ok := check.Recall(c.request)
			assert.True(t, ok)
			assert.Equal(t, c.want, recalled.Reason)
		})
	}
}

// What was verified with a hash ends with it, at once, and what is another user's goes on.
func TestChangesOfTheFile(t *testing.T) {
	t.Parallel()
	f := ofStaff(t)
	check := compile(t, f)
	alice, bob, carol := as("alice", "wombat-4711"), as("bob", "bob-secret"), as("carol", "wombat-4711")
	reason := func(r *policy.Request) string { return check.Evaluate(t.Context(), r).Reason }
	_, ok := check.Recall(alice)
	assert.False(t, ok)
	for r, want := range map[*policy.Request]string{alice: basic.ReasonValid, bob: basic.ReasonValid, carol: basic.ReasonUnknownUser} {
		assert.Equal(t, want, reason(r))
	}
	f.hold(t, "carol:"+wombat+"\nbob:"+bobs)
	_, ok = check.Recall(bob)
	assert.True(t, ok, "nothing of bob's changed")
	assert.Equal(t, basic.ReasonUnknownUser, reason(alice), "removed")
	assert.Equal(t, basic.ReasonValid, reason(carol), "added")
	f.hold(t, "alice:"+bobs+"\ncarol:"+gruess)
	assert.Equal(t, basic.ReasonWrongPassword, reason(alice), "changed")
	assert.Equal(t, basic.ReasonWrongPassword, reason(carol), "changed")
	assert.Equal(t, basic.ReasonUnknownUser, reason(bob))
	f.hold(t, "# nobody any more\n")
	assert.Equal(t, basic.ReasonUnknownUser, reason(alice))
	f.hold(t, staff)
	assert.Equal(t, basic.ReasonValid, reason(alice), "and back")
}

func TestFilesThatAreAway(t *testing.T) {
	t.Parallel()
	for err, class := range map[error]config.FailureClass{basic.ErrNotLoaded: config.PolicyNotLoaded, errors.New("it is gone"): config.DependencyDown} {
		check := compile(t, &file{err: err})
		v := check.Evaluate(t.Context(), as("alice", "planted"))
		require.NotNil(t, v.Failure)
		assert.Equal(t, policy.Failed, v.Result)
		assert.Equal(t, class, v.Failure.Class)
		assert.Contains(t, v.Failure.Detail, `htpasswd "staff": `)
		assert.NotContains(t, v.Failure.Detail, "planted")
		assert.Equal(t, basic.ReasonAbsent, check.Evaluate(t.Context(), presenting("")).Reason, "what has no credential is denied whatever the users are")
	}
}

func TestCompile(t *testing.T) {
	t.Parallel()
	checks, problems := basic.Kind{}.Compile(&config.Handler{})
	assert.Empty(t, checks)
	assert.Empty(t, problems)
	handler := &config.Handler{Basic: []config.BasicCheck{{Users: "staff"}, {Users: "unknown"}}}
	checks, problems = basic.Kind{Files: files{"staff": ofStaff(t)}, Verifier: basic.NewVerifier(1)}.Compile(handler)
	assert.Equal(t, `basic[1].users: names "unknown", which the adapter's settings do not define; add it under htpasswd or correct the name`, problems.Error())
	require.Len(t, checks, 1)
	assert.Nil(t, checks[0].Evaluate(t.Context(), presenting("")).Denial, "without a realm the handler's denial holds")
}

func TestParseUsers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		document, problem string
		users             int
	}{
		"all":               {document: staff, users: 5},
		"nobody":            {document: ""},
		"comments":          {document: "# a\n\n  \n#b:c\n"},
		"byte order mark":   {document: "\ufeffa:" + wombat, problem: `line 1 begins with a byte order mark; save the file without one`},
		"no colon":          {document: "a:" + wombat + "\nplanted", problem: `line 2 has no colon; write "name:hash" as htpasswd does`},
		"no name":           {document: ":" + wombat, problem: "line 1 has no name before the colon; use 1 to 128 bytes of UTF-8"},
		"long name":         {document: strings.Repeat("n", 129) + ":" + wombat, problem: "line 1 has a name that is too long; use 1 to 128 bytes of UTF-8"},
		"binary name":       {document: "\xff:" + wombat, problem: "line 1 has a name that is no UTF-8 text, or has control characters; use 1 to 128 bytes of UTF-8"},
		"NUL":               {document: "a\x00:" + wombat, problem: "line 1 has a name that is no UTF-8 text, or has control characters; use 1 to 128 bytes of UTF-8"},
		"twice":             {document: "a:" + wombat + "\n\nb:" + wombat + "\na:" + bobs, problem: "line 4 has the user of line 1 again; keep one"},
		"no hash":           {document: "a:", problem: `line 1 has no bcrypt hash: a password in plain text, a hash of crypt, or something else`},
		"plain":             {document: "a:planted", problem: `line 1 has no bcrypt hash: a password in plain text, a hash of crypt, or something else`},
		"crypt":             {document: "a:rl.3StKT.4T8M", problem: `line 1 has no bcrypt hash: a password in plain text, a hash of crypt, or something else`},
		"MD5":               {document: "a:$apr1$planted$x", problem: "line 1 has an MD5 hash ($apr1$), and only bcrypt is taken"},
		"SHA":               {document: "a:{SHA}planted", problem: "line 1 has a SHA-1 hash ({SHA}), and only bcrypt is taken"},
		"SHA-256":           {document: "a:$5$planted", problem: "line 1 has a hash of crypt's SHA-256 ($5$), and only bcrypt is taken"},
		"SHA-512":           {document: "a:$6$planted", problem: "line 1 has a hash of crypt's SHA-512 ($6$), and only bcrypt is taken"},
		"faulty bcrypt":     {document: "a:" + strings.Replace(wombat, "2y", "2x", 1), problem: "line 1 has a hash of a bcrypt with a known fault ($2x$), and only bcrypt is taken"},
		"bare bcrypt":       {document: "a:" + strings.Replace(wombat, "2y", "2", 1), problem: "line 1 has no bcrypt hash: a password in plain text, a hash of crypt, or something else"},
		"cut off":           {document: "a:" + wombat[:59], problem: "line 1 has a bcrypt hash that is cut off or followed by something"},
		"followed":          {document: "a:" + wombat + " ", problem: "line 1 has a bcrypt hash that is cut off or followed by something"},
		"followed by more":  {document: "a:" + wombat + ":planted", problem: "line 1 has a bcrypt hash that is cut off or followed by something"},
		"other letters":     {document: "a:" + wombat[:59] + "=", problem: "line 1 has a bcrypt hash that is cut off or followed by something"},
		"no cost":           {document: "a:" + strings.Replace(wombat, "$05$", "$xx$", 1), problem: "line 1 has a bcrypt hash that is cut off or followed by something"},
		"cheap":             {document: "a:" + strings.Replace(wombat, "$05$", "$04$", 1), problem: "line 1 has a bcrypt hash of cost 4, which is guessed too quickly; use 5 to 14"},
		"dearest":           {document: "a:" + strings.Replace(wombat, "$05$", "$14$", 1), users: 1},
		"too dear":          {document: "a:" + strings.Replace(wombat, "$05$", "$15$", 1), problem: "line 1 has a bcrypt hash of cost 15, which takes too long; use 5 to 14"},
		"many":              {document: many(basic.MaxUsers), users: basic.MaxUsers},
		"too many":          {document: many(basic.MaxUsers + 1), problem: "it has more than 10000 users"},
		"a line break only": {document: "\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			users, err := basic.ParseUsers([]byte(c.document))
			if c.problem == "" {
				require.NoError(t, err)
				assert.Equal(t, c.users, users.Len())
				return
			}
			require.ErrorContains(t, err, c.problem)
			assert.NotContains(t, err.Error(), "planted")
		})
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "user-%d:%s\n", i, wombat)
	}
	return b.String()
}

// Whatever callers present, only those pass who know a password.
func FuzzEvaluate(f *testing.F) {
	check := compile(f, ofStaff(f))
	right := map[string]bool{"alice:wombat-4711": true, "a:wombat-4711": true, "b:wombat-4711": true, "bob:bob-secret": true, "zoë:grüße:x": true}
	for pair := range right {
		f.Add("Basic " + encoded(pair))
		f.Add("basic  " + encoded(pair) + "=")
	}
	for _, value := range []string{"", "Basic", "Basic ", "Basic Og==", "Basic :", "Bearer x"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		v := check.Evaluate(t.Context(), presenting(value))
		require.Nil(t, v.Failure)
		if v.Result != policy.Passed {
			require.Equal(t, policy.Denied, v.Result)
			require.Empty(t, v.Identity)
			return
		}
		decoded, err := base64.StdEncoding.DecodeString(value[strings.LastIndexByte(value, ' ')+1:])
		require.NoError(t, err)
		require.True(t, right[string(decoded)], "%q passes", value)
	})
}

// Whatever a file holds, nothing panics, and no error shows a line.
func FuzzParseUsers(f *testing.F) {
	for _, document := range []string{staff, "", ":", "a:", "a:$2y$", "a:$2y$05$", "\x00", "a:" + wombat + "\r", "planted:{SHA}planted"} {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		users, err := basic.ParseUsers(document)
		if err != nil {
			require.Nil(t, users)
			require.NotContains(t, err.Error(), "planted")
			return
		}
		require.LessOrEqual(t, users.Len(), strings.Count(string(document), ":"))
	})
}

// BenchmarkEvaluate is the check alone.
func BenchmarkEvaluate(b *testing.B) {
	f := ofStaff(b)
	b.Run("cost 5/first", func(b *testing.B) {
		check, n := compile(b, f), 0
		b.ReportAllocs()
		for b.Loop() {
			n++
			if check.Evaluate(b.Context(), as("alice", strconv.Itoa(n))).Result != policy.Denied {
				b.Fatal("was not denied")
			}
		}
	})
	b.Run("repeated", func(b *testing.B) {
		check, request := compile(b, f), as("alice", "wombat-4711")
		b.ReportAllocs()
		for b.Loop() {
			if check.Evaluate(b.Context(), request).Result != policy.Passed {
				b.Fatal("did not pass")
			}
		}
	})
}

// BenchmarkPolicy adds the combination, for a password that was verified before.
func BenchmarkPolicy(b *testing.B) {
	compiler := policy.Compiler{
		Kinds:   []policy.Kind{basic.Kind{Files: files{"staff": ofStaff(b)}, Verifier: basic.NewVerifier(256)}},
		Timeout: time.Minute, Gate: policy.NewGate(8, 0),
	}
	p := compiler.Compile(&config.Handler{
		Basic: []config.BasicCheck{{Property: property, Users: "staff"}}, Allow: config.Lifetime{Duration: time.Second, Uses: 100},
	}, nil)
	require.Empty(b, p.Problems())
	request := as("alice", "wombat-4711")
	b.ReportAllocs()
	for b.Loop() {
		if !p.Evaluate(b.Context(), request).Allowed() {
			b.Fatal("did not pass")
		}
	}
}
