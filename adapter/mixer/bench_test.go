package mixer

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	apikeys "github.com/tollgate-mesh/tollgate/adapter/policy/apikey"
	"github.com/tollgate-mesh/tollgate/adapter/policy/basic"
	"github.com/tollgate-mesh/tollgate/adapter/policy/header"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/adapter/policy/list"
	"github.com/tollgate-mesh/tollgate/adapter/policy/quota"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/apikey"
)

// BenchmarkCheck measures the adapter's own work in one process, for every kind of check: a call's bytes → decision → the reply's bytes, with
// a compiled handler and without gRPC, metrics and logs. What is remembered of a request is measured twice: "first" remembers nothing, and
// "repeated" asks for the same again. Of passwords it cannot be turned off that they are remembered, so that the first time for each has a
// user of its own. BenchmarkServer in package adapter measures the whole.
func BenchmarkCheck(b *testing.B) {
	module := func(source string) *configpb.Params {
		return &configpb.Params{Policy: []string{source}, CheckMethod: proto.String("data.p.allow")}
	}
	property := proto.String(config.AuthKeyProperty)
	keys, token := signed(b)
	passwords := &staff{}
	passwords.renew(b)
	digest := sha256.Sum256([]byte("abc"))
	blocks := make([]string, 10_000)
	for i := range blocks {
		blocks[i] = fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)
	}
	listed := func(entryType configpb.ListCheck_EntryType, entries ...string) []byte {
		return mixertest.Params(&configpb.Params{Lists: []*configpb.ListCheck{{Listed: configpb.ListCheck_ALLOWED, EntryType: entryType, Entries: entries}}})
	}
	tokenParams := &configpb.Params{Jwt: []*configpb.JwtCheck{{SubjectProperty: property, Keys: "idp", Issuers: []string{"i"}, AnyAudience: true}}}
	basicParams := &configpb.Params{Basic: []*configpb.BasicCheck{{SubjectProperty: property, Users: "staff"}}}
	claims := module("package p\nallow { input.token.sub == \"alice\" }")
	claims.Jwt = tokenParams.Jwt
	for _, c := range []struct {
		name       string
		template   int
		call       []byte
		code       int32
		remembered bool // tells first from repeated
	}{
		{"header/allow", 0, mixertest.Call(&configpb.Params{AuthKey: proto.String("abc")}, "abc"), 0, false},
		{"header/deny", 0, mixertest.Call(&configpb.Params{AuthKey: proto.String("abc")}, "abd"), 7, false},
		{"apikey/property", 0, mixertest.Call(&configpb.Params{ApiKeys: []*configpb.ApiKeyCheck{{
			SubjectProperty: property, Keys: []*configpb.ApiKey{{Identity: "i", Sha256: hex.EncodeToString(digest[:])}},
		}}}, "abc"), 0, false},
		{"apikey/template", 1, mixertest.APIKey(mixertest.Params(&configpb.Params{ApiKeys: []*configpb.ApiKeyCheck{{
			Keys: []*configpb.ApiKey{{Identity: "i", Sha256: hex.EncodeToString(digest[:])}},
		}}}), &apikey.InstanceMsg{Api: "a", ApiKey: "abc"}), 0, false},
		{"apikey/unknown", 1, mixertest.APIKey(mixertest.Params(&configpb.Params{ApiKeys: []*configpb.ApiKeyCheck{{
			Keys: []*configpb.ApiKey{{Identity: "i", Sha256: hex.EncodeToString(digest[:])}},
		}}}), &apikey.InstanceMsg{Api: "a", ApiKey: "abd"}), 7, false},
		{"jwt", 0, mixertest.Call(tokenParams, token), 0, true},
		{"basic", 0, mixertest.Call(basicParams, login(0)), 0, true},
		{"jwt and rego", 0, mixertest.Call(claims, token), 0, true},
		{"list/strings", 2, mixertest.ListEntry(listed(configpb.ListCheck_STRINGS, "curl", "wget"), mixertest.Text("wget")), 0, false},
		{"list/strings of any case", 2, mixertest.ListEntry(listed(configpb.ListCheck_CASE_INSENSITIVE_STRINGS, "curl", "wget"), mixertest.Text("Wget")), 0, false},
		{"list/10000 CIDRs", 2, mixertest.ListEntry(listed(configpb.ListCheck_IP_ADDRESSES, blocks...), mixertest.Text("10.5.5.5")), 0, false},
		{"list/expressions", 2, mixertest.ListEntry(listed(configpb.ListCheck_REGEX, "^c.*l$", "^w.*t$"), mixertest.Text("wget")), 0, false},
		{"rego/comparison", 0, mixertest.Call(module("package p\nallow { input.subject.user == \"alice\" }"), ""), 0, true},
		{"rego/rules", 0, mixertest.Call(module(`package p
policy = [{"rule": {"verbs": ["GET", "POST"], "users": ["bob", "alice"]}}]
default allow = false
allow = true {
	rule = policy[_].rule
	input.subject.user = rule.users[_]
	input.action.method = rule.verbs[_]
}`), ""), 0, true},
		{"rego/built-ins", 0, mixertest.Call(module("package p\nallow { lower(input.subject.user) == \"alice\"; startswith(input.action.path, \"/bookings\") }"), ""), 0, true},
		{"rego/object", 0, mixertest.Call(module(`package p
allow = {"allow": false, "reason": "bookings", "message": "not today", "headers": {"Retry-After": "60"}} { input.action.service == "bookings" }`), ""), 7, true},
		{"rego/everything", 0, mixertest.Call(module(`package p
allow { object.get(input, ["action", "method"], "") == "GET" }`), ""), 0, true},
		{"rego/checknothing", 3, mixertest.Nothing(mixertest.Params(module("package p\nallow = false"))), 7, true},
	} {
		for _, repeated := range []bool{false, true} {
			name := c.name
			switch {
			case !c.remembered && repeated:
				continue
			case c.remembered && repeated:
				name += "/repeated"
			case c.remembered:
				name += "/first"
			}
			b.Run(name, func(b *testing.B) {
				door := NewDoor(testEngines(benchCompiler(keys, passwords, repeated)), testLimits(), quiet{})
				codec := NewCodec()
				text := string(c.call)
				if got := door.check(b.Context(), checkTemplates[c.template], text).Status.Code; got != c.code {
					b.Fatalf("code is %d, not %d", got, c.code)
				}
				b.ReportAllocs()
				b.SetBytes(int64(len(text)))
				for i := 1; b.Loop(); i++ {
					if name == "basic/first" {
						if i%users == 0 {
							b.StopTimer()
							passwords.renew(b)
							b.StartTimer()
						}
						text = string(mixertest.Call(basicParams, login(i%users)))
					}
					result := door.check(b.Context(), checkTemplates[c.template], text)
					if result.Status.Code != c.code {
						b.Fatalf("code is %d, not %d", result.Status.Code, c.code)
					}
					if _, err := codec.Marshal(result); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func benchCompiler(keys *jwt.Keys, passwords *staff, remembers bool) *policy.Compiler {
	compiler := testCompiler()
	var tokens *jwt.Cache
	var answers *rego.Cache
	if remembers {
		tokens, answers = jwt.NewCache(100, 1<<20), rego.NewCache(1<<20, 1<<20)
	}
	compiler.Kinds = []policy.Kind{
		header.Kind{Secrets: noSecrets{}},
		jwt.Kind{KeySets: fixedKeys{keys}, Cache: tokens},
		apikeys.Kind{Secrets: noSecrets{}},
		list.Kind{Sources: noLists{}},
		rego.Kind{Cache: answers},
		basic.Kind{Files: passwords, Verifier: basic.NewVerifier(8)},
	}
	return compiler
}

// users is how many there are in a file.
const users = 1000

// staff is an htpasswd file, by any name, of users with the password wombat-4711 at the least cost. Each time it is made anew, nobody has
// verified anything with its hash.
type staff struct{ now atomic.Pointer[basic.Users] }

func (s *staff) File(string) (basic.File, bool) { return s, true }
func (s *staff) Users() (*basic.Users, error)   { return s.now.Load(), nil }

func (s *staff) renew(b *testing.B) {
	b.Helper()
	const leastCost = 5
	hash, err := bcrypt.GenerateFromPassword([]byte("wombat-4711"), leastCost)
	if err != nil {
		b.Fatal(err)
	}
	var file strings.Builder
	for i := range users {
		fmt.Fprintf(&file, "user-%d:%s\n", i, hash)
	}
	now, err := basic.ParseUsers([]byte(file.String()))
	if err != nil {
		b.Fatal(err)
	}
	s.now.Store(now)
}

func login(user int) string {
	return "Basic " + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "user-%d:wombat-4711", user))
}

// fixedKeys is a key set that never changes, by any name.
type fixedKeys struct{ keys *jwt.Keys }

func (k fixedKeys) KeySet(string) (jwt.KeySet, bool) { return k, true }
func (fixedKeys) Symmetric() bool                    { return false }
func (k fixedKeys) Keys() (*jwt.Keys, error)         { return k.keys, nil }
func (fixedKeys) Want()                              {}

// signed makes a key and a token that it signed.
func signed(b *testing.B) (*jwt.Keys, string) {
	b.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	keys, err := jwt.ParseKeys([]byte(`{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "`+encode(public)+`"}]}`), false)
	if err != nil {
		b.Fatal(err)
	}
	content := encode([]byte(`{"alg": "EdDSA", "kid": "k"}`)) + "." + encode([]byte(`{"iss": "i", "sub": "alice", "exp": 4102444800}`))
	return keys, content + "." + encode(ed25519.Sign(private, []byte(content)))
}

// BenchmarkQuota measures the same for quota calls that are counted in memory, each with an id of its own as Mixer sends them.
func BenchmarkQuota(b *testing.B) {
	window := &configpb.Quota{Instance: "requests", Amount: config.MaxQuotaAmount, Window: durationpb.New(time.Hour), MaxKeys: config.MaxQuotaKeys}
	bucket, _ := proto.Clone(window).(*configpb.Quota)
	bucket.Algorithm = configpb.Quota_TOKEN_BUCKET
	none, _ := proto.Clone(window).(*configpb.Quota)
	none.Amount, none.Overrides = 1, []*configpb.QuotaOverride{{Dimensions: map[string]string{"user": "bob"}, Amount: proto.Int64(5)}}
	for _, c := range []struct {
		name    string
		quota   *configpb.Quota
		users   int
		granted bool
	}{
		{"fixed window", window, 1, true},
		{"token bucket", bucket, 1, true},
		{"100000 users", window, 100_000, true},
		{"exhausted", none, 1, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			engines := testEngines(testCompiler())
			engines.Quotas = &policy.Compiler{
				Kinds:   []policy.Kind{quota.Kind{Memory: quota.NewMemory(config.MaxQuotaKeys)}},
				Timeout: time.Second, Gate: policy.NewGate(2, 0), Scope: quota.Scope,
			}
			door := NewDoor(engines, testLimits(), quiet{})
			codec := NewCodec()
			params := mixertest.Params(&configpb.Params{Quotas: []*configpb.Quota{c.quota}})
			calls := make([]string, 100_000) // more than are remembered, so that none is a repeat
			for i := range calls {
				user := map[string]string{"user": fmt.Sprint("user-", i%c.users), "path": "/reviews"}
				calls[i] = string(mixertest.Quota(params, fmt.Sprint("c0ffee-", i), user, 2, false))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				result := door.quota(b.Context(), calls[i%len(calls)])
				if got := result.Quotas[mixertest.QuotaInstance].GrantedAmount; got > 0 != c.granted {
					b.Fatalf("%d are granted", got)
				}
				if _, err := codec.Marshal(result); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFirstCall measures what a new configuration costs: decoded, validated, compiled and asked once.
func BenchmarkFirstCall(b *testing.B) {
	for name, params := range map[string]func(i int) *configpb.Params{
		"header": func(i int) *configpb.Params {
			return &configpb.Params{Name: fmt.Sprintf("h-%d", i), AuthKey: proto.String("abc")}
		},
		"rego": func(i int) *configpb.Params {
			return &configpb.Params{
				Name: fmt.Sprintf("h-%d", i), Policy: []string{"package p\nallow { input.subject.user == \"alice\" }"}, CheckMethod: proto.String("data.p.allow"),
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			door := newTestDoor(b, quiet{})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if code := door.check(b.Context(), checkTemplates[0], string(mixertest.Call(params(i), "abc"))).Status.Code; code != 0 {
					b.Fatalf("code is %d", code)
				}
			}
		})
	}
}

func BenchmarkDecodeAuthorization(b *testing.B) {
	text := string(mixertest.Call(&configpb.Params{AuthKey: proto.String("abc")}, "abc"))
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		var c call
		if err := decodeCheck(text, decodeAuthorization, &c); err != nil {
			b.Fatal(err)
		}
	}
}
