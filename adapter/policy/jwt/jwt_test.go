package jwt_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"math"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/config"
)

// keySet is a key set that a test changes.
type keySet struct {
	symmetric bool
	keys      atomic.Pointer[jwt.Keys]
	err       error
	wanted    atomic.Int64
}

func (s *keySet) Symmetric() bool { return s.symmetric }

func (s *keySet) Keys() (*jwt.Keys, error) {
	if s.err != nil {
		return nil, s.err
	}
	return s.keys.Load(), nil
}

func (s *keySet) Want() { s.wanted.Add(1) }

// has gives the set its keys.
func (s *keySet) has(tb testing.TB, keys ...map[string]any) *keySet {
	tb.Helper()
	parsed, err := jwt.ParseKeys(set(keys...), s.symmetric)
	require.NoError(tb, err)
	s.keys.Store(parsed)
	return s
}

func holding(tb testing.TB, ids ...string) *keySet {
	tb.Helper()
	var keys []map[string]any
	for _, id := range ids {
		keys = append(keys, with(id).jwk())
	}
	return (&keySet{}).has(tb, keys...)
}

// idp is a key set of every kind of key pair.
func idp(tb testing.TB) *keySet {
	tb.Helper()
	return holding(tb, "rsa", "p256", "p384", "p521", "ed")
}

type keySets map[string]*keySet

func (s keySets) KeySet(name string) (jwt.KeySet, bool) {
	found, ok := s[name]
	if !ok {
		return nil, false
	}
	return found, true
}

var property = config.Property{Name: "authorization"}

// shop is the check that most tests make.
func shop() config.JWTCheck {
	return config.JWTCheck{
		Name: "shop", Property: property, Keys: "idp", Issuers: []string{"https://idp.example.com"}, Audiences: []string{"shop", "cart"},
		Leeway: 30 * time.Second, Realm: "the shop",
	}
}

func compile(tb testing.TB, s *keySet, cache *jwt.Cache, configured config.JWTCheck) policy.Check {
	tb.Helper()
	handler := &config.Handler{JWT: []config.JWTCheck{configured}, Denial: config.Denial{Code: config.PermissionDenied, Message: "no"}}
	checks, problems := jwt.Kind{KeySets: keySets{"idp": s}, Cache: cache}.Compile(handler)
	require.Empty(tb, problems)
	require.Len(tb, checks, 1)
	return checks[0]
}

func presenting(text string) *policy.Request {
	return presentingValue(attribute.OfText(attribute.String, text))
}

func presentingValue(v attribute.Value) *policy.Request {
	return &policy.Request{Subject: &policy.Subject{Properties: attribute.Map{{Name: "authorization", Value: v}}}}
}

// reasonOf asks a check twice, first without and then perhaps with what the cache has kept, and returns the reason.
func reasonOf(tb testing.TB, check policy.Check, request *policy.Request) string {
	tb.Helper()
	var v policy.Verdict
	for range 2 {
		v = check.Evaluate(tb.Context(), request)
		require.Nil(tb, v.Failure)
		require.Equal(tb, v.Reason == jwt.ReasonValid, v.Result == policy.Passed)
		require.Equal(tb, v.Reason == jwt.ReasonValid, v.Claims != nil)
		require.NotEqual(tb, policy.Failed, v.Result)
	}
	return v.Reason
}

func cache() *jwt.Cache { return jwt.NewCache(100, 1<<20) }

func TestEveryAlgorithm(t *testing.T) {
	t.Parallel()
	secrets := (&keySet{symmetric: true}).has(t, with("secret").jwk())
	for algorithm := range signers {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			keys := idp(t)
			if strings.HasPrefix(algorithm, "HS") {
				keys = secrets
			}
			check := compile(t, keys, cache(), shop())
			token := spec{algorithm: algorithm}.token(t)
			assert.Equal(t, jwt.ReasonValid, reasonOf(t, check, presenting(token)))
			assert.Equal(t, jwt.ReasonValid, reasonOf(t, check, presenting(spec{algorithm: algorithm, header: map[string]any{"kid": nil}}.token(t))), "without a key id")
			for segment := 1; segment < 3; segment++ {
				changed := tamper(token, segment, func(s string) string {
					content, err := base64.RawURLEncoding.DecodeString(s)
					require.NoError(t, err)
					if segment == 1 {
						return b64([]byte(strings.Replace(string(content), "alice", "mallo", 1)))
					}
					content[len(content)/2] ^= 1
					return b64(content)
				})
				assert.Equal(t, jwt.ReasonBadSignature, reasonOf(t, check, presenting(changed)))
			}
			short := tamper(token, 2, func(s string) string { return s[:4*(len(s)/8)] })
			assert.Equal(t, jwt.ReasonBadSignature, reasonOf(t, check, presenting(short)))
			assert.Equal(t, jwt.ReasonBadSignature, reasonOf(t, check, presenting(tamper(token, 2, func(string) string { return "" }))))

			only := shop()
			only.Algorithms = []string{"RS256"}
			if strings.HasPrefix(algorithm, "HS") {
				only.Algorithms = []string{"HS256"}
			}
			want := jwt.ReasonAlgorithm
			if only.Algorithms[0] == algorithm {
				want = jwt.ReasonValid
			}
			assert.Equal(t, want, reasonOf(t, compile(t, keys, cache(), only), presenting(token)))
		})
	}
}

func TestPresentation(t *testing.T) {
	t.Parallel()
	token := good(t)
	for name, c := range map[string]struct {
		request *policy.Request
		want    string
	}{
		"bearer":                {presenting("Bearer " + token), jwt.ReasonValid},
		"bearer in lower case":  {presenting("bearer " + token), jwt.ReasonValid},
		"several spaces":        {presenting("BEARER   " + token), jwt.ReasonValid},
		"the token alone":       {presenting(token), jwt.ReasonValid},
		"of text of other kind": {presentingValue(attribute.OfText(attribute.URI, token)), jwt.ReasonValid},
		"nothing":               {&policy.Request{}, jwt.ReasonAbsent},
		"another property":      {&policy.Request{Action: &policy.Action{Properties: attribute.Map{{Name: "authorization", Value: attribute.OfText(attribute.String, token)}}}}, jwt.ReasonAbsent},
		"empty":                 {presenting(""), jwt.ReasonAbsent},
		"the scheme alone":      {presenting("Bearer"), jwt.ReasonAbsent},
		"the scheme and spaces": {presenting("Bearer  "), jwt.ReasonAbsent},
		"another scheme":        {presenting("Basic " + token), jwt.ReasonAbsent},
		"a space before":        {presenting(" " + token), jwt.ReasonAbsent},
		"no text":               {presentingValue(attribute.OfInt64(1)), jwt.ReasonMalformed},
		"unknown":               {presentingValue(attribute.Value{}), jwt.ReasonMalformed},
		"a space after":         {presenting("Bearer " + token + " "), jwt.ReasonMalformed},
		"two tokens":            {presenting("Bearer " + token + ",Bearer " + token), jwt.ReasonMalformed},
		"two tokens, spaced":    {presenting("Bearer " + token + " " + token), jwt.ReasonMalformed},
		"a tab":                 {presenting("Bearer\t" + token), jwt.ReasonMalformed},
		"a line break":          {presenting(token + "\n"), jwt.ReasonMalformed},
		"a line break within":   {presenting(strings.Replace(token, ".", ".\r\n", 1)), jwt.ReasonMalformed},
		"quotes":                {presenting(`"` + token + `"`), jwt.ReasonMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, reasonOf(t, compile(t, idp(t), cache(), shop()), c.request))
		})
	}
}

// Every forged, broken or odd token is denied for its own reason.
func TestTokensThatAreDenied(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write(set(with("stranger").jwk()))
	}))
	t.Cleanup(elsewhere.Close)

	token := good(t)
	parts := strings.Split(token, ".")
	es256 := func(header, payload string) string { return raw(t, "ES256", with("p256").private, header, payload) }
	payload := marshal(t, claims())
	headed := func(members map[string]any) string { return spec{header: members}.token(t) }
	claiming := func(members map[string]any) string { return spec{claims: members}.token(t) }
	rsaKey := with("rsa").private.(*rsa.PrivateKey)
	pkix, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	require.NoError(t, err)
	confused := func(secret []byte) string {
		return raw(t, "HS256", secret, `{"alg":"HS256","kid":"rsa"}`, payload)
	}
	none := func(algorithm, signature string) string {
		return b64([]byte(`{"alg":"`+algorithm+`"}`)) + "." + parts[1] + "." + signature
	}
	half := func(from string) string { return from[:len(from)-1] }

	for name, c := range map[string]struct{ token, want string }{
		// Algorithms.
		"alg none":                            {none("none", ""), jwt.ReasonAlgorithm},
		"alg none in other cases":             {none("nOnE", ""), jwt.ReasonAlgorithm},
		"alg none with a signature":           {none("none", parts[2]), jwt.ReasonAlgorithm},
		"alg empty":                           {none("", ""), jwt.ReasonMalformed},
		"alg missing":                         {es256(`{"kid":"p256"}`, payload), jwt.ReasonMalformed},
		"alg of another type":                 {es256(`{"alg":["ES256"],"kid":"p256"}`, payload), jwt.ReasonMalformed},
		"alg in lower case":                   {es256(`{"alg":"es256","kid":"p256"}`, payload), jwt.ReasonAlgorithm},
		"alg in another member's case":        {es256(`{"Alg":"ES256","kid":"p256"}`, payload), jwt.ReasonMalformed},
		"alg unknown":                         {es256(`{"alg":"ES256K","kid":"p256"}`, payload), jwt.ReasonAlgorithm},
		"HS256 with the public key as PEM":    {confused(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix})), jwt.ReasonAlgorithm},
		"HS256 with the public key as DER":    {confused(pkix), jwt.ReasonAlgorithm},
		"HS256 with the public key's modulus": {confused(rsaKey.N.Bytes()), jwt.ReasonAlgorithm},
		"HS256 with the public key as JWK":    {confused([]byte(marshal(t, with("rsa").jwk()))), jwt.ReasonAlgorithm},
		"HS256 with nothing":                  {confused(nil), jwt.ReasonAlgorithm},
		"RS256 with the id of a curve":        {raw(t, "RS256", rsaKey, `{"alg":"RS256","kid":"p256"}`, payload), jwt.ReasonAlgorithm},
		"ES256 with another curve":            {raw(t, "ES256", with("p384").private, `{"alg":"ES256","kid":"p384"}`, payload), jwt.ReasonAlgorithm},
		"a PS256 signature called RS256":      {raw(t, "PS256", rsaKey, `{"alg":"RS256","kid":"rsa"}`, payload), jwt.ReasonBadSignature},
		"an RS256 signature called RS512":     {raw(t, "RS256", rsaKey, `{"alg":"RS512","kid":"rsa"}`, payload), jwt.ReasonBadSignature},

		// Signatures.
		"zeros":                    {parts[0] + "." + parts[1] + "." + b64(make([]byte, 64)), jwt.ReasonBadSignature},
		"in ASN.1":                 {parts[0] + "." + parts[1] + "." + b64(asn1Signature(t, parts[2])), jwt.ReasonBadSignature},
		"longer":                   {token + "AAAA", jwt.ReasonBadSignature},
		"of another token":         {parts[0] + "." + b64([]byte(marshal(t, change(claims(), map[string]any{"sub": "bob"})))) + "." + parts[2], jwt.ReasonBadSignature},
		"by a stranger":            {spec{algorithm: "RS256", private: with("stranger").private}.token(t), jwt.ReasonBadSignature},
		"by a stranger without id": {spec{algorithm: "RS256", header: map[string]any{"kid": nil}, private: with("stranger").private}.token(t), jwt.ReasonBadSignature},

		// Keys.
		"unknown key id":        {headed(map[string]any{"kid": "p257"}), jwt.ReasonUnknownKey},
		"key id of other case":  {headed(map[string]any{"kid": "P256"}), jwt.ReasonUnknownKey},
		"key id of a path":      {headed(map[string]any{"kid": "../../dev/null"}), jwt.ReasonUnknownKey},
		"key id of no text":     {headed(map[string]any{"kid": 1}), jwt.ReasonMalformed},
		"key id null":           {es256(`{"alg":"ES256","kid":null}`, payload), jwt.ReasonMalformed},
		"its own key":           {spec{algorithm: "RS256", header: map[string]any{"kid": "mine", "jwk": change(with("stranger").jwk(), map[string]any{"kid": "mine"})}, private: with("stranger").private}.token(t), jwt.ReasonUnknownKey},
		"its own key, no id":    {spec{algorithm: "RS256", header: map[string]any{"kid": nil, "jwk": with("stranger").jwk()}, private: with("stranger").private}.token(t), jwt.ReasonBadSignature},
		"its own address":       {spec{algorithm: "RS256", header: map[string]any{"kid": "stranger", "jku": elsewhere.URL}, private: with("stranger").private}.token(t), jwt.ReasonUnknownKey},
		"its own certificate":   {spec{algorithm: "RS256", header: map[string]any{"x5u": elsewhere.URL, "x5c": []string{"AAAA"}}, private: with("stranger").private}.token(t), jwt.ReasonBadSignature},
		"no key for the kind":   {raw(t, "HS256", []byte("x"), `{"alg":"HS256"}`, payload), jwt.ReasonAlgorithm},
		"critical extension":    {headed(map[string]any{"crit": []string{"exp"}, "exp": 1}), jwt.ReasonMalformed},
		"empty critical":        {headed(map[string]any{"crit": []string{}}), jwt.ReasonMalformed},
		"payload not encoded":   {headed(map[string]any{"b64": false, "crit": []string{"b64"}}), jwt.ReasonMalformed},
		"payload said encoded":  {headed(map[string]any{"b64": true}), jwt.ReasonMalformed},
		"compressed":            {headed(map[string]any{"zip": "DEF"}), jwt.ReasonMalformed},
		"encrypted, by header":  {headed(map[string]any{"enc": "A256GCM"}), jwt.ReasonMalformed},
		"encrypted, in form":    {token + "." + parts[0] + "." + parts[1], jwt.ReasonMalformed},
		"a token in a token":    {es256(`{"alg":"ES256","kid":"p256","cty":"JWT"}`, token), jwt.ReasonMalformed},
		"JSON serialization":    {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, jwt.ReasonMalformed},
		"one part":              {parts[0], jwt.ReasonMalformed},
		"two parts":             {parts[0] + "." + parts[1], jwt.ReasonMalformed},
		"four parts":            {token + ".", jwt.ReasonMalformed},
		"dots":                  {"..", jwt.ReasonMalformed},
		"no header":             {"." + parts[1] + "." + parts[2], jwt.ReasonMalformed},
		"no payload":            {parts[0] + ".." + parts[2], jwt.ReasonMalformed},
		"no base64":             {"a!b." + parts[1] + "." + parts[2], jwt.ReasonMalformed},
		"padded":                {parts[0] + "." + parts[1] + "." + parts[2] + "==", jwt.ReasonMalformed},
		"in the other alphabet": {parts[0] + "." + parts[1] + "." + "+/" + parts[2][2:], jwt.ReasonMalformed},
		// 64 bytes leave 4 bits of the last character that must be zero: there are 16 spellings of each signature.
		"another spelling":  {half(token) + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[strings.IndexByte("AQgw", token[len(token)-1])*16+1]), jwt.ReasonMalformed},
		"cut off":           {token[:len(token)/2], jwt.ReasonMalformed},
		"not UTF-8":         {es256(`{"alg":"ES256","kid":"p256"}`, strings.Replace(payload, "alice", "al\xffce", 1)), jwt.ReasonMalformed},
		"very large":        {claiming(map[string]any{"fill": strings.Repeat("x", 16<<10)}), jwt.ReasonMalformed},
		"a megabyte":        {strings.Repeat("a", 1<<20), jwt.ReasonMalformed},
		"dots by thousands": {strings.Repeat(".", 16<<10), jwt.ReasonMalformed},

		// JSON.
		"no object":                  {es256(`{"alg":"ES256","kid":"p256"}`, `["a"]`), jwt.ReasonMalformed},
		"null":                       {es256(`{"alg":"ES256","kid":"p256"}`, `null`), jwt.ReasonMalformed},
		"more after it":              {es256(`{"alg":"ES256","kid":"p256"}`, payload+payload), jwt.ReasonMalformed},
		"a comma too many":           {es256(`{"alg":"ES256","kid":"p256"}`, `{"a":1,}`), jwt.ReasonMalformed},
		"alg twice":                  {es256(`{"alg":"none","alg":"ES256","kid":"p256"}`, payload), jwt.ReasonMalformed},
		"a claim twice":              {es256(`{"alg":"ES256","kid":"p256"}`, payload[:len(payload)-1]+`,"sub":"bob"}`), jwt.ReasonMalformed},
		"a claim twice, escaped":     {es256(`{"alg":"ES256","kid":"p256"}`, payload[:len(payload)-1]+`,"\u0073ub":"bob"}`), jwt.ReasonMalformed},
		"a claim twice, deep":        {es256(`{"alg":"ES256","kid":"p256"}`, payload[:len(payload)-1]+`,"a":[{"b":1,"b":1}]}`), jwt.ReasonMalformed},
		"deeply nested":              {es256(`{"alg":"ES256","kid":"p256"}`, payload[:len(payload)-1]+`,"a":`+strings.Repeat("[", 32)+strings.Repeat("]", 32)+`}`), jwt.ReasonMalformed},
		"very deeply nested":         {es256(`{"alg":"ES256","kid":"p256"}`, strings.Repeat(`{"a":`, 1500)+"1"+strings.Repeat("}", 1500)), jwt.ReasonMalformed},
		"a number beyond all others": {es256(`{"alg":"ES256","kid":"p256"}`, payload[:len(payload)-1]+`,"a":1e999999999}`), jwt.ReasonMalformed},

		// Claims.
		"from nobody":           {claiming(map[string]any{"iss": nil}), jwt.ReasonWrongIssuer},
		"from somebody else":    {claiming(map[string]any{"iss": "https://idp.example.com/"}), jwt.ReasonWrongIssuer},
		"from no text":          {claiming(map[string]any{"iss": []string{"https://idp.example.com"}}), jwt.ReasonMalformed},
		"for nobody":            {claiming(map[string]any{"aud": nil}), jwt.ReasonWrongAudience},
		"for nobody, in a list": {claiming(map[string]any{"aud": []string{}}), jwt.ReasonWrongAudience},
		"for somebody else":     {claiming(map[string]any{"aud": "shopping"}), jwt.ReasonWrongAudience},
		"for others":            {claiming(map[string]any{"aud": []string{"shopping", "Shop", "", "shop cart"}}), jwt.ReasonWrongAudience},
		"for a number":          {claiming(map[string]any{"aud": 1}), jwt.ReasonMalformed},
		"for text and numbers":  {claiming(map[string]any{"aud": []any{"shop", 1}}), jwt.ReasonMalformed},
		"for null":              {es256(`{"alg":"ES256","kid":"p256"}`, strings.Replace(payload, `"shop"`, "null", 1)), jwt.ReasonMalformed},
		"without an end":        {claiming(map[string]any{"exp": nil}), jwt.ReasonMissingClaim},
		"an end of text":        {claiming(map[string]any{"exp": "4102444800"}), jwt.ReasonMalformed},
		"an end in ms":          {claiming(map[string]any{"exp": time.Now().Add(time.Hour).UnixMilli() * 1000}), jwt.ReasonMalformed},
		"an end beyond all":     {claiming(map[string]any{"exp": json.Number("1e300")}), jwt.ReasonMalformed},
		"an end of null":        {es256(`{"alg":"ES256","kid":"p256"}`, `{"iss":"https://idp.example.com","aud":"shop","exp":null}`), jwt.ReasonMalformed},
		"an end before 1970":    {claiming(map[string]any{"exp": -1}), jwt.ReasonExpired},
		"an end in the year 1":  {claiming(map[string]any{"exp": -62135596800}), jwt.ReasonExpired},
		"a start of text":       {claiming(map[string]any{"nbf": "0"}), jwt.ReasonMalformed},
		"an issue of text":      {claiming(map[string]any{"iat": true}), jwt.ReasonMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check := compile(t, idp(t), cache(), shop())
			assert.Equal(t, c.want, reasonOf(t, check, presenting(c.token)))
			v := check.Evaluate(t.Context(), presenting(c.token))
			assert.Equal(t, config.Unauthenticated, v.Denial.Code)
			assert.Equal(t, jwt.ReasonValid, reasonOf(t, check, presenting(token)), "a good one still passes")
		})
	}
	t.Cleanup(func() { assert.Zero(t, asked.Load(), "an address in a token was followed") })
}

func asn1Signature(t *testing.T, segment string) []byte {
	t.Helper()
	rs, err := base64.RawURLEncoding.DecodeString(segment)
	require.NoError(t, err)
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(rs[:32]), new(big.Int).SetBytes(rs[32:])})
	require.NoError(t, err)
	return der
}

func TestTokensThatPass(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]spec{
		"audience in a list":         {claims: map[string]any{"aud": []string{"x", "cart"}}},
		"an end with a fraction":     {claims: map[string]any{"exp": json.Number("4102444800.75")}},
		"an end with an exponent":    {claims: map[string]any{"exp": json.Number("4.1024448e9")}},
		"no type":                    {header: map[string]any{"typ": nil}},
		"as large as tokens may be":  {claims: map[string]any{"fill": strings.Repeat("x", 11_800)}},
		"nested as deep as it may":   {claims: map[string]any{"a": json.RawMessage(strings.Repeat("[", 31) + strings.Repeat("]", 31))}},
		"addresses that are ignored": {header: map[string]any{"jku": "http://127.0.0.1:1", "x5u": "http://127.0.0.1:1", "jwk": map[string]any{}}},
		"an empty key id":            {header: map[string]any{"kid": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, jwt.ReasonValid, reasonOf(t, compile(t, idp(t), cache(), shop()), presenting(s.token(t))))
		})
	}
	whomever := shop()
	whomever.Audiences = nil
	for _, audience := range []any{nil, "x", []string{}} {
		assert.Equal(t, jwt.ReasonValid, reasonOf(t, compile(t, idp(t), cache(), whomever), presenting(spec{claims: map[string]any{"aud": audience}}.token(t))))
	}
}

// Each bound of time, at it and one second past it; and the lifetime of the answer. All from the cache as well.
func TestTimes(t *testing.T) {
	t.Parallel()
	single, none := config.SingleUse, config.Lifetime{}
	lasting := func(d time.Duration) config.Lifetime { return config.Lifetime{Duration: d, Uses: math.MaxInt32} }
	after := func(d time.Duration) *time.Duration { return &d }
	for name, c := range map[string]struct {
		exp, nbf, iat *time.Duration // from now
		maxAge        time.Duration
		want          string
		lifetime      config.Lifetime
	}{
		"for an hour":                   {exp: after(time.Hour), want: jwt.ReasonValid, lifetime: lasting(time.Hour)},
		"for a second":                  {exp: after(time.Second), want: jwt.ReasonValid, lifetime: lasting(time.Second)},
		"until now":                     {exp: after(0), want: jwt.ReasonValid, lifetime: single},
		"within the leeway":             {exp: after(-29 * time.Second), want: jwt.ReasonValid, lifetime: single},
		"at the leeway's end":           {exp: after(-30 * time.Second), want: jwt.ReasonExpired},
		"expired":                       {exp: after(-time.Hour), want: jwt.ReasonExpired},
		"for ever":                      {want: jwt.ReasonValid, lifetime: none},
		"from now":                      {exp: after(time.Hour), nbf: after(0), want: jwt.ReasonValid, lifetime: lasting(time.Hour)},
		"from a while ago":              {exp: after(time.Hour), nbf: after(-time.Hour), want: jwt.ReasonValid, lifetime: lasting(time.Hour)},
		"from the leeway's end":         {exp: after(time.Hour), nbf: after(30 * time.Second), want: jwt.ReasonValid, lifetime: lasting(time.Hour)},
		"from past the leeway":          {exp: after(time.Hour), nbf: after(31 * time.Second), want: jwt.ReasonNotYetValid, lifetime: lasting(time.Second)},
		"from later":                    {exp: after(time.Hour), nbf: after(10 * time.Minute), want: jwt.ReasonNotYetValid, lifetime: lasting(9*time.Minute + 30*time.Second)},
		"over before it begins":         {exp: after(-time.Hour), nbf: after(time.Hour), want: jwt.ReasonExpired},
		"issued later, no age":          {exp: after(time.Hour), iat: after(time.Hour), want: jwt.ReasonValid, lifetime: lasting(time.Hour)},
		"young":                         {exp: after(time.Hour), iat: after(-time.Minute), maxAge: 2 * time.Minute, want: jwt.ReasonValid, lifetime: lasting(time.Minute)},
		"young, over sooner":            {exp: after(time.Second), iat: after(-time.Minute), maxAge: 2 * time.Minute, want: jwt.ReasonValid, lifetime: lasting(time.Second)},
		"young, for ever":               {iat: after(-time.Minute), maxAge: 2 * time.Minute, want: jwt.ReasonValid, lifetime: lasting(time.Minute)},
		"too old, within the leeway":    {exp: after(time.Hour), iat: after(-149 * time.Second), maxAge: 2 * time.Minute, want: jwt.ReasonValid, lifetime: single},
		"too old":                       {exp: after(time.Hour), iat: after(-150 * time.Second), maxAge: 2 * time.Minute, want: jwt.ReasonExpired},
		"of no age":                     {exp: after(time.Hour), maxAge: 2 * time.Minute, want: jwt.ReasonMissingClaim},
		"issued within the leeway":      {exp: after(time.Hour), iat: after(30 * time.Second), maxAge: time.Minute, want: jwt.ReasonValid, lifetime: lasting(90 * time.Second)},
		"issued in the future":          {exp: after(time.Hour), iat: after(31 * time.Second), maxAge: time.Minute, want: jwt.ReasonNotYetValid, lifetime: lasting(time.Second)},
		"to begin later than issued":    {exp: after(time.Hour), iat: after(0), nbf: after(time.Minute), maxAge: time.Hour, want: jwt.ReasonNotYetValid, lifetime: lasting(30 * time.Second)},
		"to be issued before it begins": {exp: after(2 * time.Hour), iat: after(time.Hour), nbf: after(0), maxAge: time.Hour, want: jwt.ReasonNotYetValid, lifetime: lasting(59*time.Minute + 30*time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			with("p256") // outside of the bubble: it starts with no time at all
			synctest.Test(t, func(t *testing.T) {
				configured := shop()
				configured.MaxAge, configured.AllowNoExpiry = c.maxAge, true
				members := map[string]any{"exp": nil}
				for claim, offset := range map[string]*time.Duration{"exp": c.exp, "nbf": c.nbf, "iat": c.iat} {
					if offset != nil {
						members[claim] = time.Now().Add(*offset).Unix()
					}
				}
				check := compile(t, idp(t), cache(), configured)
				request := presenting(spec{claims: members}.token(t))
				assert.Equal(t, c.want, reasonOf(t, check, request))
				assert.Equal(t, c.lifetime, check.Evaluate(t.Context(), request).Lifetime)
			})
		})
	}
}

// A verified token is looked at anew for its time, and the lifetimes of answers shrink with it.
func TestCachedTokensExpire(t *testing.T) {
	t.Parallel()
	with("p256")
	synctest.Test(t, func(t *testing.T) {
		check := compile(t, idp(t), cache(), shop())
		now := time.Now()
		request := presenting(spec{claims: map[string]any{"exp": now.Add(10 * time.Second).Unix()}}.token(t))
		for _, step := range []struct {
			at       time.Duration
			want     string
			lifetime time.Duration
		}{
			{0, jwt.ReasonValid, 10 * time.Second},
			{7 * time.Second, jwt.ReasonValid, 3 * time.Second},
			{9999 * time.Millisecond, jwt.ReasonValid, time.Millisecond},
			{10 * time.Second, jwt.ReasonValid, -time.Second},
			{40*time.Second - 1, jwt.ReasonValid, -time.Second},
			{40 * time.Second, jwt.ReasonExpired, 0},
		} {
			time.Sleep(time.Until(now.Add(step.at)))
			v := check.Evaluate(t.Context(), request)
			assert.Equal(t, step.want, v.Reason, step.at)
			assert.Equal(t, step.lifetime, v.Lifetime.Duration, step.at)
		}
	})
}

// slowSet is a key set whose keys take their time to come, as signatures do to be verified.
type slowSet struct{ *keySet }

func (s slowSet) Keys() (*jwt.Keys, error) {
	time.Sleep(3 * time.Second)
	return s.keySet.Keys()
}

// However long the check itself takes, the answer ends with the token.
func TestLifetimeEndsWithTheToken(t *testing.T) {
	t.Parallel()
	with("p256")
	synctest.Test(t, func(t *testing.T) {
		checks, problems := jwt.Kind{KeySets: slowSets{slowSet{idp(t)}}}.Compile(&config.Handler{JWT: []config.JWTCheck{shop()}})
		require.Empty(t, problems)
		end := time.Now().Add(10 * time.Second)
		v := checks[0].Evaluate(t.Context(), presenting(spec{claims: map[string]any{"exp": end.Unix()}}.token(t)))
		assert.Equal(t, jwt.ReasonValid, v.Reason)
		assert.Equal(t, time.Until(end), v.Lifetime.Duration)
	})
}

// slowSets has one set by any name.
type slowSets struct{ set slowSet }

func (s slowSets) KeySet(string) (jwt.KeySet, bool) { return s.set, true }

func TestClaimRules(t *testing.T) {
	t.Parallel()
	said := map[string]any{
		"s": "text", "empty": "", "n": json.Number("3"), "f": json.Number("3.0"), "yes": true, "no": false, "null": json.RawMessage("null"),
		"list": []any{"a", "b", 1, true, nil, []any{"deep"}}, "none": []any{}, "object": map[string]any{"inner": map[string]any{"leaf": "x", "list": []any{"y"}}},
		"https://example.com/roles": []any{"admin"}, "a.b": "dotted", "a": map[string]any{"b": "nested"}, "scope": "read write", "lines": "a\nb",
	}
	path := func(steps ...string) []string { return steps }
	for name, c := range map[string]struct {
		rule config.ClaimRule
		want bool
	}{
		"equals":                       {config.ClaimRule{Path: path("s"), Values: []string{"text"}}, true},
		"equals a part":                {config.ClaimRule{Path: path("s"), Values: []string{"tex"}}, false},
		"equals in other case":         {config.ClaimRule{Path: path("s"), Values: []string{"Text"}}, false},
		"equals a number":              {config.ClaimRule{Path: path("n"), Values: []string{"3"}}, true},
		"a number as written":          {config.ClaimRule{Path: path("f"), Values: []string{"3"}}, false},
		"true":                         {config.ClaimRule{Path: path("yes"), Values: []string{"true"}}, true},
		"false":                        {config.ClaimRule{Path: path("no"), Values: []string{"true"}}, false},
		"null is nothing":              {config.ClaimRule{Path: path("null"), Values: []string{"null", ""}}, false},
		"missing is nothing":           {config.ClaimRule{Path: path("missing"), Values: []string{""}}, false},
		"a list is no text":            {config.ClaimRule{Path: path("list"), Values: []string{"a", "[a b]"}}, false},
		"an object is no text":         {config.ClaimRule{Path: path("object"), Pattern: ".*"}, false},
		"one of several":               {config.ClaimRule{Path: path("s"), Values: []string{"x", "text"}}, true},
		"none of several":              {config.ClaimRule{Path: path("s"), Values: []string{"x", "y"}}, false},
		"pattern":                      {config.ClaimRule{Path: path("s"), Pattern: "t.*t"}, true},
		"pattern of a part":            {config.ClaimRule{Path: path("s"), Pattern: "tex"}, false},
		"pattern of alternatives":      {config.ClaimRule{Path: path("s"), Pattern: "x|tex"}, false},
		"pattern of many lines":        {config.ClaimRule{Path: path("lines"), Pattern: "(?m)^a$"}, false},
		"pattern of one of many words": {config.ClaimRule{Path: path("scope"), Pattern: "(.* )?write( .*)?"}, true},
		"pattern of an empty text":     {config.ClaimRule{Path: path("empty"), Pattern: ".+"}, false},
		"pattern of nothing":           {config.ClaimRule{Path: path("missing"), Pattern: ".*"}, false},
		"contains":                     {config.ClaimRule{Path: path("list"), Contains: "b"}, true},
		"contains a number":            {config.ClaimRule{Path: path("list"), Contains: "1"}, true},
		"contains not":                 {config.ClaimRule{Path: path("list"), Contains: "c"}, false},
		"contains nothing deep":        {config.ClaimRule{Path: path("list"), Contains: "deep"}, false},
		"contains no null":             {config.ClaimRule{Path: path("list"), Contains: "null"}, false},
		"an empty list":                {config.ClaimRule{Path: path("none"), Contains: "a"}, false},
		"a text is no list":            {config.ClaimRule{Path: path("s"), Contains: "text"}, false},
		"nested":                       {config.ClaimRule{Path: path("object", "inner", "leaf"), Values: []string{"x"}}, true},
		"nested list":                  {config.ClaimRule{Path: path("object", "inner", "list"), Contains: "y"}, true},
		"nested too deep":              {config.ClaimRule{Path: path("object", "inner", "leaf", "x"), Values: []string{"x"}}, false},
		"through a list":               {config.ClaimRule{Path: path("list", "0"), Values: []string{"a"}}, false},
		"a name with dots":             {config.ClaimRule{Path: path("https://example.com/roles"), Contains: "admin"}, true},
		"dotted":                       {config.ClaimRule{Path: path("a.b"), Values: []string{"dotted"}}, true},
		"not dotted":                   {config.ClaimRule{Path: path("a", "b"), Values: []string{"nested"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			configured := shop()
			configured.Claims = []config.ClaimRule{{Path: path("sub"), Values: []string{"alice"}}, c.rule}
			want := jwt.ReasonMissingClaim
			if c.want {
				want = jwt.ReasonValid
			}
			assert.Equal(t, want, reasonOf(t, compile(t, idp(t), cache(), configured), presenting(spec{claims: said}.token(t))))
			// What a token must say is not to be found out by tokens of one's own making.
			forged := spec{claims: said, private: with("p256").private}.token(t)
			forged = tamper(forged, 2, func(string) string { return b64(make([]byte, 64)) })
			assert.Equal(t, jwt.ReasonBadSignature, reasonOf(t, compile(t, idp(t), cache(), configured), presenting(forged)))
		})
	}
}

// While keys are away a token that is wrong in itself is denied all the same, and every other is a failure.
func TestKeysAway(t *testing.T) {
	t.Parallel()
	configured := shop()
	configured.Claims = []config.ClaimRule{{Path: []string{"sub"}, Values: []string{"alice"}}}
	for _, c := range []struct {
		err   error
		class config.FailureClass
	}{{jwt.ErrNotLoaded, config.PolicyNotLoaded}, {errors.New("planted reason"), config.DependencyDown}} {
		check := compile(t, &keySet{err: c.err}, cache(), configured)
		for _, token := range []string{good(t), spec{header: map[string]any{"kid": "unknown"}}.token(t), tamper(good(t), 2, func(string) string { return "" })} {
			v := check.Evaluate(t.Context(), presenting(token))
			require.NotNil(t, v.Failure)
			assert.Equal(t, c.class, v.Failure.Class)
			assert.Equal(t, policy.Failed, v.Result)
			assert.Contains(t, v.Failure.Detail, `key set "idp": `+c.err.Error())
			assert.Nil(t, v.Claims)
		}
		for want, request := range map[string]*policy.Request{
			jwt.ReasonAbsent:        presenting(""),
			jwt.ReasonMalformed:     presenting("x"),
			jwt.ReasonAlgorithm:     presenting(b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte("{}")) + "."),
			jwt.ReasonExpired:       presenting(spec{claims: map[string]any{"exp": 1}}.token(t)),
			jwt.ReasonWrongIssuer:   presenting(spec{claims: map[string]any{"iss": "x"}}.token(t)),
			jwt.ReasonWrongAudience: presenting(spec{claims: map[string]any{"aud": "x"}}.token(t)),
			jwt.ReasonMissingClaim:  presenting(spec{claims: map[string]any{"sub": "bob"}}.token(t)),
		} {
			assert.Equal(t, want, reasonOf(t, check, request))
		}
	}
}

// Keys come and go, also under a token that was verified before.
func TestRotation(t *testing.T) {
	t.Parallel()
	keys := holding(t, "p256")
	check := compile(t, keys, cache(), shop())
	old, young := presenting(good(t)), presenting(spec{algorithm: "EdDSA"}.token(t))
	assert.Equal(t, jwt.ReasonValid, reasonOf(t, check, old))
	assert.Zero(t, keys.wanted.Load())
	v := check.Evaluate(t.Context(), young)
	assert.Equal(t, jwt.ReasonUnknownKey, v.Reason)
	assert.Equal(t, config.SingleUse, v.Lifetime, "a moment later the key may be there")
	assert.EqualValues(t, 1, keys.wanted.Load())

	keys.has(t, with("p256").jwk(), with("ed").jwk())
	assert.Equal(t, jwt.ReasonValid, reasonOf(t, check, old))
	assert.Equal(t, jwt.ReasonValid, reasonOf(t, check, young))

	keys.has(t, with("ed").jwk())
	assert.Equal(t, jwt.ReasonUnknownKey, reasonOf(t, check, old), "what is removed counts no more, whatever was kept")
	assert.Equal(t, jwt.ReasonValid, reasonOf(t, check, young))

	keys.has(t, change(with("ed").jwk(), map[string]any{"kid": "p256"}))
	assert.Equal(t, jwt.ReasonAlgorithm, reasonOf(t, check, old), "nor when another key has its name")
	keys.has(t, change(with("p256").jwk(), map[string]any{"x": with("ed").jwk()["x"]}), with("ed").jwk())
	assert.Equal(t, jwt.ReasonUnknownKey, reasonOf(t, check, old), "a point beside the curve is no key")
	keys.has(t)
	assert.Equal(t, jwt.ReasonUnknownKey, reasonOf(t, check, young), "nor in a set that was emptied")

	wanted := keys.wanted.Load()
	for _, token := range []string{
		spec{header: map[string]any{"kid": "x"}, claims: map[string]any{"exp": 1}}.token(t), spec{header: map[string]any{"kid": "x"}, claims: map[string]any{"iss": "x"}}.token(t), "x",
	} {
		check.Evaluate(t.Context(), presenting(token))
	}
	assert.Equal(t, wanted, keys.wanted.Load(), "tokens that are wrong anyway want no keys")
}

// One cache for all checks mixes nothing up.
func TestCacheTellsChecksApart(t *testing.T) {
	t.Parallel()
	shared := cache()
	keys := idp(t)
	request := presenting(good(t))
	for change, want := range map[string]string{
		"issuers": jwt.ReasonWrongIssuer, "audiences": jwt.ReasonWrongAudience, "algorithms": jwt.ReasonAlgorithm,
		"claims": jwt.ReasonMissingClaim, "max age": jwt.ReasonMissingClaim,
	} {
		assert.Equal(t, jwt.ReasonValid, reasonOf(t, compile(t, keys, shared, shop()), request))
		other := shop()
		switch change {
		case "issuers":
			other.Issuers = []string{"x"}
		case "audiences":
			other.Audiences = []string{"x"}
		case "algorithms":
			other.Algorithms = []string{"RS256"}
		case "claims":
			other.Claims = []config.ClaimRule{{Path: []string{"x"}, Values: []string{"x"}}}
		case "max age":
			other.MaxAge = time.Hour
		}
		assert.Equal(t, want, reasonOf(t, compile(t, keys, shared, other), request), change)
	}
}

func TestDenial(t *testing.T) {
	t.Parallel()
	expired := presenting(spec{claims: map[string]any{"exp": 1}}.token(t))
	const (
		plain   = `Bearer realm="the shop"`
		invalid = `Bearer realm="the shop", error="invalid_token", error_description="the token is expired"`
	)
	operators := func(r config.HTTPResponse) *config.HTTPResponse { return &r }
	for name, c := range map[string]struct {
		realm   string
		own     config.Denial
		request *policy.Request
		want    *config.Denial
	}{
		"no token": {
			"the shop",
			config.Denial{Code: config.PermissionDenied, Message: "no"},
			presenting(""),
			&config.Denial{Code: config.Unauthenticated, Message: "no", HTTP: &config.HTTPResponse{Status: 401, Headers: map[string]string{"WWW-Authenticate": plain}}},
		},
		"expired": {
			"the shop",
			config.Denial{Code: config.PermissionDenied, Message: "no"},
			expired,
			&config.Denial{Code: config.Unauthenticated, Message: "no", HTTP: &config.HTTPResponse{Status: 401, Headers: map[string]string{"WWW-Authenticate": invalid}}},
		},
		"off": {"", config.Denial{Code: config.PermissionDenied, Message: "no"}, expired, nil},
		"beside the operator's": {
			"the shop",
			config.Denial{HTTP: operators(config.HTTPResponse{Body: "b", Headers: map[string]string{"X-A": "a"}})},
			expired,
			&config.Denial{Code: config.Unauthenticated, HTTP: &config.HTTPResponse{Status: 401, Body: "b", Headers: map[string]string{"WWW-Authenticate": invalid, "X-A": "a"}}},
		},
		"the operator's own header and status": {
			"the shop",
			config.Denial{HTTP: operators(config.HTTPResponse{Status: 302, Headers: map[string]string{"www-authenticate": "own"}})},
			expired,
			&config.Denial{Code: config.Unauthenticated, HTTP: &config.HTTPResponse{Status: 302, Headers: map[string]string{"www-authenticate": "own"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			configured := shop()
			configured.Realm = c.realm
			before := maps.Clone(headersOf(c.own.HTTP))
			checks, problems := jwt.Kind{KeySets: keySets{"idp": idp(t)}}.Compile(&config.Handler{JWT: []config.JWTCheck{configured}, Denial: c.own})
			require.Empty(t, problems)
			assert.Equal(t, c.want, checks[0].Evaluate(t.Context(), c.request).Denial)
			assert.Equal(t, before, headersOf(c.own.HTTP), "the handler's stays as it is")
		})
	}
}

func headersOf(r *config.HTTPResponse) map[string]string {
	if r == nil {
		return nil
	}
	return r.Headers
}

// quotable is what RFC 6750 lets stand in error_description.
var quotable = regexp.MustCompile(`^Bearer realm="the shop"(, error="invalid_token", error_description="[^"\\[:cntrl:]]+")?$`)

// Whatever is wrong, the caller hears a fixed text of it.
func TestChallenges(t *testing.T) {
	t.Parallel()
	check := compile(t, idp(t), nil, shop())
	token := spec{claims: map[string]any{"iss": "planted\"\r\nX-Evil: 1"}, header: map[string]any{"kid": "planted\""}}.token(t)
	for _, presented := range []string{"", token, token[:20], "planted", "Basic planted", good(t) + "x"} {
		v := check.Evaluate(t.Context(), presenting(presented))
		challenge := v.Denial.HTTP.Headers["WWW-Authenticate"]
		assert.Regexp(t, quotable, challenge)
		assert.NotContains(t, challenge, "planted")
		assert.Equal(t, v.Reason != jwt.ReasonAbsent, strings.Contains(challenge, "error"))
	}
}

func TestCompile(t *testing.T) {
	t.Parallel()
	secrets := (&keySet{symmetric: true}).has(t, with("secret").jwk())
	kind := jwt.Kind{KeySets: keySets{"idp": idp(t), "own": secrets}}
	checks, problems := kind.Compile(&config.Handler{})
	assert.Empty(t, checks)
	assert.Empty(t, problems)

	configure := func(change func(*config.JWTCheck)) config.JWTCheck {
		c := shop()
		change(&c)
		return c
	}
	_, problems = kind.Compile(&config.Handler{JWT: []config.JWTCheck{
		configure(func(c *config.JWTCheck) { c.Keys = strings.Repeat("unknown", 1000) }),
		configure(func(c *config.JWTCheck) { c.Name, c.Algorithms = "confused", []string{"RS256", "HS256"} }),
		configure(func(c *config.JWTCheck) { c.Name, c.Keys, c.Algorithms = "own", "own", []string{"HS256", "RS256"} }),
	}})
	var texts []string
	for _, p := range problems {
		texts = append(texts, p.String())
	}
	assert.Equal(t, []string{
		`jwt.shop.keys: names "unknownunknownunknownunknownunknownunknownunknownunknownunknownu", which the adapter's settings do not define; add it under key_sets or correct the name`,
		`jwt.confused.algorithms: has HS256, which does not go with the key set "idp"; use some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA`,
		`jwt.own.algorithms: has RS256, which does not go with the key set "own"; use some of HS256, HS384, HS512`,
	}, texts)

	checks, problems = kind.Compile(&config.Handler{JWT: []config.JWTCheck{shop(), configure(func(c *config.JWTCheck) { c.Name = "second" })}})
	require.Empty(t, problems)
	require.Len(t, checks, 2)
	assert.Equal(t, "jwt/shop", checks[0].Name())
	assert.Equal(t, "jwt/second", checks[1].Name())
	request := presenting(good(t))
	assert.Equal(t, "alice", checks[0].Evaluate(t.Context(), request).Claims["sub"])
	assert.Nil(t, checks[1].Evaluate(t.Context(), request).Claims, "policies see the first token's claims and no other's")
	assert.Equal(t, policy.Compute, checks[0].Cost())
}
