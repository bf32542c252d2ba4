package mixer

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/quota"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/apikey"
)

// BenchmarkCheck measures the adapter's own work in one process: a call's bytes → decision → the reply's bytes, with a compiled
// handler and without gRPC, metrics and logs. BenchmarkServer in package adapter measures the whole.
func BenchmarkCheck(b *testing.B) {
	rego := func(source string) *configpb.Params {
		return &configpb.Params{Policy: []string{source}, CheckMethod: proto.String("data.p.allow")}
	}
	for _, c := range []struct {
		name   string
		params *configpb.Params
		token  string
		code   int32
	}{
		{"header/allow", &configpb.Params{AuthKey: proto.String("abc")}, "abc", 0},
		{"header/deny", &configpb.Params{AuthKey: proto.String("abc")}, "abd", 7},
		{"rego/comparison", rego("package p\nallow { input.subject.user == \"alice\" }"), "", 0},
		{"rego/rules", rego(`package p
policy = [{"rule": {"verbs": ["GET", "POST"], "users": ["bob", "alice"]}}]
default allow = false
allow = true {
	rule = policy[_].rule
	input.subject.user = rule.users[_]
	input.action.method = rule.verbs[_]
}`), "", 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			door := newTestDoor(b, quiet{})
			codec := NewCodec()
			text := string(mixertest.Call(c.params, c.token))
			if got := door.check(b.Context(), checkTemplates[0], text).Status.Code; got != c.code {
				b.Fatalf("code is %d, not %d", got, c.code)
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := codec.Marshal(door.check(b.Context(), checkTemplates[0], text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCheckTemplates measures the same for the other templates, each with the kind of check that goes with it.
func BenchmarkCheckTemplates(b *testing.B) {
	digest := strings.Repeat("ab", 32)
	keyed := mixertest.Params(&configpb.Params{ApiKeys: []*configpb.ApiKeyCheck{{Keys: []*configpb.ApiKey{{Identity: "i", Sha256: digest}}}}})
	blocks := make([]string, 10_000)
	for i := range blocks {
		blocks[i] = fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)
	}
	listed := mixertest.Params(&configpb.Params{Lists: []*configpb.ListCheck{{
		Listed: configpb.ListCheck_ALLOWED, EntryType: configpb.ListCheck_IP_ADDRESSES, Entries: blocks,
	}}})
	few := mixertest.Params(&configpb.Params{Lists: []*configpb.ListCheck{{Listed: configpb.ListCheck_DENIED, Entries: []string{"curl"}}}})
	closed := mixertest.Params(&configpb.Params{Policy: []string{"package p\nallow = false"}, CheckMethod: proto.String("data.p.allow")})
	for _, c := range []struct {
		name     string
		template int
		call     []byte
		code     int32
	}{
		{"apikey/unknown", 1, mixertest.APIKey(keyed, &apikey.InstanceMsg{Api: "a", ApiKey: "abc"}), 7},
		{"listentry/10000 CIDRs in the handler", 2, mixertest.ListEntry(listed, mixertest.Text("10.5.5.5")), 0},
		{"listentry/one string", 2, mixertest.ListEntry(few, mixertest.Text("wget")), 0},
		{"checknothing/rego", 3, mixertest.Nothing(closed), 7},
	} {
		b.Run(c.name, func(b *testing.B) {
			door := newTestDoor(b, quiet{})
			codec := NewCodec()
			text := string(c.call)
			if got := door.check(b.Context(), checkTemplates[c.template], text).Status.Code; got != c.code {
				b.Fatalf("code is %d, not %d", got, c.code)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := codec.Marshal(door.check(b.Context(), checkTemplates[c.template], text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
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
				Timeout: time.Second, Gate: policy.NewGate(2, 0), Wanted: quota.Wanted,
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
