package mixertest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// SecretCalls are calls that hold an operator's secret and a caller's token in every place where a credential may stand, and that
// end in every kind of answer: allowed, denied, failed closed and open, malformed in params and in the call.
func SecretCalls(secret, token string) [][]byte {
	property := proto.String(config.AuthKeyProperty)
	handlers := map[string]*configpb.Params{
		"allow":                   {Name: "allow", AuthKey: proto.String(token)},
		"deny":                    {Name: "deny", AuthKey: proto.String(secret)},
		"values":                  {Headers: []*configpb.HeaderCheck{{SubjectProperty: property, Values: []string{secret, secret + "2"}}}},
		"values and a digest":     {Headers: []*configpb.HeaderCheck{{SubjectProperty: property, Values: []string{secret}, Sha256: []string{secret}}}},
		"values in any":           {Require: configpb.Params_ANY, AuthKey: proto.String(secret), Headers: []*configpb.HeaderCheck{{SubjectProperty: property, Values: []string{secret}}}},
		"no property":             {Headers: []*configpb.HeaderCheck{{Values: []string{secret}}}},
		"value too long":          {AuthKey: proto.String(strings.Repeat(secret, 10_000))},
		"bad response":            {AuthKey: proto.String(secret), Denial: &configpb.Denial{Http: &configpb.HttpResponse{Status: 200, Headers: map[string]string{"X": secret + "\n"}}}},
		"a digest for an API key": {ApiKeys: []*configpb.ApiKeyCheck{{SubjectProperty: property, Keys: []*configpb.ApiKey{{Identity: "partner", Sha256: secret}}}}},
		"an API key":              {ApiKeys: []*configpb.ApiKeyCheck{{SubjectProperty: property, Secrets: []string{"missing"}}}},
		"a list that denies":      {Lists: []*configpb.ListCheck{{SubjectProperty: property, Listed: configpb.ListCheck_ALLOWED, EntryType: configpb.ListCheck_REGEX, Entries: []string{"x+"}}}},
		"an address":              {Lists: []*configpb.ListCheck{{SubjectProperty: property, Listed: configpb.ListCheck_DENIED, EntryType: configpb.ListCheck_IP_ADDRESSES, Entries: []string{"::1"}}}},
		"body":                    {AuthKey: proto.String(secret), Name: "Bad Name"},
	}
	for name, source := range map[string]string{
		"policy":               `allow { input.subject.properties.custom_token_header == "` + secret + `" }`,
		"policy allows":        `allow { input.subject.properties.custom_token_header == "` + token + `" }`,
		"string unended":       `allow { input.x == "` + secret,
		"raw string unended":   "allow { input.x == `" + secret,
		"string escaped wrong": `allow { input.x == "\q` + secret + `" }`,
		"string over lines":    "allow { input.x == \"a\n" + secret + "\" }",
		"string as a key":      `allow { input["` + secret + `"] == x }`,
		"string as a rule":     `allow { data.mixerauthz["` + secret + `"] } "` + secret + `" { true }`,
		"type error":           `allow { "` + secret + `" + 1 == 2 }`,
		"called":               `allow { to_number("` + secret + `") == 1 }`,
		"comment":              "# " + secret + "\nallow { x }",
		"conflict":             `allow = "` + secret + `" { true } allow = input.subject.properties.custom_token_header { true }`,
		"result of the caller": `allow = input.subject.properties.custom_token_header { true }`,
		"result object":        `allow = {"allow": false, "extra": input.subject.properties.custom_token_header} { true }`,
		"result code":          `allow = {"allow": false, "code": input.subject.properties.custom_token_header} { true }`,
		"result status":        `allow = {"allow": false, "http_status": input.subject.properties.custom_token_header} { true }`,
		"result headers":       `allow = {"allow": false, "headers": {input.subject.properties.custom_token_header: 1}} { true }`,
		"result lifetime":      `allow = {"allow": true, "lifetime": {"duration": input.subject.properties.custom_token_header}} { true }`,
		"print":                `allow { print(input.subject.properties.custom_token_header) }`,
		"trace":                `allow { trace(input.subject.properties.custom_token_header) }`,
		"panics":               `allow { bits.lsh(count(input.subject.properties.custom_token_header), 9223372036854775807) == 1 }`,
		"loops":                `xs := numbers.range(1, 2000) allow { x := xs[_]; y := xs[_]; z := xs[_]; x + y + z < 0 } allow { input.subject.properties.custom_token_header == "` + secret + `" }`,
	} {
		handlers["Rego: "+name] = &configpb.Params{Policy: []string{"package mixerauthz\n" + source}, CheckMethod: proto.String("data.mixerauthz.allow")}
	}
	// Nothing else is cut off, however slow the machine is.
	handlers["Rego: loops"].EvaluationTimeout = durationpb.New(time.Second)
	var calls [][]byte
	for i, name := range slices.Sorted(maps.Keys(handlers)) {
		params := handlers[name]
		if params.GetName() == "" {
			// Logs hold back what is said too often of one handler.
			params.Name = fmt.Sprintf("planted-%d", i)
		}
		calls = append(calls, Call(params, token))
		opened := proto.CloneOf(params)
		opened.Name += "-open"
		opened.Failure = &configpb.Failure{
			Configuration: configpb.Failure_OPEN, EvaluationError: configpb.Failure_OPEN, UndefinedResult: configpb.Failure_OPEN,
			Timeout: configpb.Failure_OPEN, Panic: configpb.Failure_OPEN,
		}
		calls = append(calls, Call(opened, token))
		// The same in pieces: whatever a decoder quotes of what it chokes on would show here.
		encoded := Params(params)
		for _, part := range []int{1, len(encoded) / 2, len(encoded) - 1} {
			cut := Bytes(Request(encoded[:part], token))
			calls = append(calls, cut, cut[:len(cut)-1], cut[:len(cut)/2])
		}
	}
	full := Request([]byte(secret), token)
	full.Instance.Subject.User, full.Instance.Subject.Groups, full.Instance.Action.Path, full.DedupId = token, token, "/"+token, token
	whole := Call(handlers["deny"], token)
	return append(calls, Bytes(full), []byte(token), slices.Concat(whole, []byte(token)))
}
