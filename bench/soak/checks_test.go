package soak

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/apikey"
)

// check is a check call with the answer that it must get.
type check struct {
	about  string
	method string
	call   []byte
	want   codes.Code
}

// usesOfHandler is how many checks are made with a handler that is new, before there is another.
const usesOfHandler = 20

// questions make the checks. Each makes its nth, of which about every third has to be denied.
type questions struct {
	token, key, listed, signer *rotation

	secret, keyed, inList, signed, claims, policy []byte // handlers' params
}

func newQuestions(token, key, listed, signer *rotation) *questions {
	property := proto.String(config.AuthKeyProperty)
	jwt := &configpb.JwtCheck{SubjectProperty: property, Keys: "idp", Issuers: []string{"https://idp.example.org"}, Audiences: []string{"shop"}}
	return &questions{
		token: token, key: key, listed: listed, signer: signer,
		secret: mixertest.Params(&configpb.Params{Name: "secret", Headers: []*configpb.HeaderCheck{{SubjectProperty: property, Secrets: []string{"token"}}}}),
		keyed:  mixertest.Params(&configpb.Params{Name: "keyed", ApiKeys: []*configpb.ApiKeyCheck{{Secrets: []string{"key"}}}}),
		inList: mixertest.Params(&configpb.Params{Name: "in-list", Lists: []*configpb.ListCheck{{Listed: configpb.ListCheck_ALLOWED, Source: "listed"}}}),
		signed: mixertest.Params(&configpb.Params{Name: "signed", Jwt: []*configpb.JwtCheck{jwt}}),
		claims: mixertest.Params(&configpb.Params{
			Name: "claims", Jwt: []*configpb.JwtCheck{jwt}, RegoVersion: configpb.Params_V1,
			Policy:      []string{"package soak\nallow if input.token.role == \"editor\"\ndefault allow := false"},
			CheckMethod: proto.String("data.soak.allow"),
		}),
		policy: mixertest.Params(&configpb.Params{
			Name: "policy", RegoVersion: configpb.Params_V1,
			Policy:      []string{"package soak\ndefault allow := false\nallow if {\n\tinput.action.method in {\"GET\", \"HEAD\"}\n\tsome part in split(input.action.path, \"/\")\n\tpart == \"open\"\n}"},
			CheckMethod: proto.String("data.soak.allow"),
			DecisionLog: &configpb.DecisionLog{Record: configpb.DecisionLog_ALL, Sinks: []string{"decisions"}},
		}),
	}
}

// all lists them.
func (q *questions) all() []func(n int) check {
	return []func(n int) check{q.aboutSecret, q.aboutKey, q.aboutList, q.aboutToken, q.aboutClaims, q.aboutPolicy, q.aboutNewHandler, q.aboutNewPolicy, q.aboutNothing}
}

// one picks by the remainder, and expects a denial where the value does not hold.
func pick(n int, value *rotation, denial codes.Code) (string, codes.Code) {
	if n%3 == 0 {
		return value.bad(), denial
	}
	return value.good(), codes.OK
}

func authorization(about string, params []byte, credential string, want codes.Code) check {
	return check{about, mixertest.Method, mixertest.Bytes(mixertest.Request(params, credential)), want}
}

func (q *questions) aboutSecret(n int) check {
	value, want := pick(n, q.token, codes.PermissionDenied)
	return authorization("secret "+value, q.secret, value, want)
}

func (q *questions) aboutKey(n int) check {
	value, want := pick(n, q.key, codes.PermissionDenied)
	return check{"API key " + value, mixertest.APIKeyMethod, mixertest.APIKey(q.keyed, &apikey.InstanceMsg{Name: "call.instance.default", ApiKey: value}), want}
}

func (q *questions) aboutList(n int) check {
	value, want := pick(n, q.listed, codes.PermissionDenied)
	return check{"list " + value, mixertest.ListEntryMethod, mixertest.ListEntry(q.inList, mixertest.Text(value)), want}
}

// aboutToken presents tokens, each for ten checks, and some that have expired.
func (q *questions) aboutToken(n int) check {
	value, want := pick(n, q.signer, codes.Unauthenticated)
	claims := q.claimsOf(n / 10)
	if n%7 == 0 {
		claims["exp"], want = time.Now().Add(-time.Hour).Unix(), codes.Unauthenticated
	}
	return authorization("token of "+value, q.signed, token(value, claims), want)
}

func (q *questions) claimsOf(n int) map[string]any {
	const validity = 1000 // seconds; rounded, so that tokens repeat
	return map[string]any{
		"iss": "https://idp.example.org", "aud": "shop", "sub": fmt.Sprint("user-", n), "exp": (time.Now().Unix()/validity + 2) * validity,
	}
}

// aboutClaims asks a policy about the claims of a token.
func (q *questions) aboutClaims(n int) check {
	claims, want := q.claimsOf(n/10), codes.PermissionDenied
	if n%3 != 0 {
		claims["role"], want = "editor", codes.OK
	}
	return authorization("claims", q.claims, token(q.signer.good(), claims), want)
}

func (q *questions) aboutPolicy(n int) check {
	request, want := mixertest.Request(q.policy, ""), codes.OK
	request.Instance.Action.Path = fmt.Sprintf("/shop/open/%d", n%1000)
	if n%3 == 0 {
		request.Instance.Action.Method, want = "PUT", codes.PermissionDenied
	}
	return check{"policy", mixertest.Method, mixertest.Bytes(request), want}
}

// aboutNewHandler asks handlers that come and go.
func (q *questions) aboutNewHandler(n int) check {
	key, presented, want := fmt.Sprint("key-", n/usesOfHandler), "none", codes.PermissionDenied
	if n%3 != 0 {
		presented, want = key, codes.OK
	}
	params := mixertest.Params(&configpb.Params{Name: fmt.Sprint("new-", n/usesOfHandler), AuthKey: &key})
	return authorization("new handler", params, presented, want)
}

// aboutNewPolicy does the same with policies, which take more to compile.
func (q *questions) aboutNewPolicy(n int) check {
	user, presented, want := fmt.Sprint("user-", n/usesOfHandler), "none", codes.PermissionDenied
	if n%3 != 0 {
		presented, want = user, codes.OK
	}
	params := mixertest.Params(&configpb.Params{
		Name: fmt.Sprint("new-policy-", n/usesOfHandler), RegoVersion: configpb.Params_V1, CheckMethod: proto.String("data.soak.allow"),
		Policy: []string{fmt.Sprintf("package soak\ndefault allow := false\nallow if input.subject.user == %q\n", user)},
	})
	request := mixertest.Request(params, "")
	request.Instance.Subject.User = presented
	return check{"new policy", mixertest.Method, mixertest.Bytes(request), want}
}

// aboutNothing asks a handler without checks, which must not let anything pass.
func (q *questions) aboutNothing(int) check {
	return check{"handler without checks", mixertest.NothingMethod, mixertest.Nothing(mixertest.Params(&configpb.Params{Name: "nothing"})), codes.Unavailable}
}
