package config_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// Every bound, at it and one past it. What is too bulky for testdata/cases is here.
func TestBounds(t *testing.T) {
	t.Parallel()
	header := func(h *configpb.HeaderCheck) *configpb.Params {
		if h.SubjectProperty == nil {
			h.SubjectProperty = proto.String("api_key")
		}
		return &configpb.Params{Headers: []*configpb.HeaderCheck{h}}
	}
	rego := func(modules ...string) *configpb.Params {
		return &configpb.Params{Policy: modules, CheckMethod: proto.String("data.a.allow")}
	}
	keyed := func(change func(*configpb.Params)) *configpb.Params {
		p := &configpb.Params{AuthKey: proto.String("abc")}
		change(p)
		return p
	}
	allow := func(l *configpb.Lifetime) *configpb.Params {
		return keyed(func(p *configpb.Params) { p.Lifetimes = &configpb.Lifetimes{Allow: l} })
	}
	response := func(r *configpb.HttpResponse) *configpb.Params {
		return keyed(func(p *configpb.Params) { p.Denial = &configpb.Denial{Http: r} })
	}
	timeout := func(d *durationpb.Duration) *configpb.Params {
		return keyed(func(p *configpb.Params) { p.EvaluationTimeout = d })
	}
	checks := func(n int) *configpb.Params {
		p := &configpb.Params{}
		for range n {
			p.Headers = append(p.Headers, &configpb.HeaderCheck{SubjectProperty: proto.String("a"), Values: []string{"value"}})
		}
		return p
	}
	token := func(change func(*configpb.JwtCheck)) *configpb.Params {
		check := &configpb.JwtCheck{SubjectProperty: proto.String("a"), Keys: "k", Issuers: []string{"i"}, Audiences: []string{"a"}}
		change(check)
		return &configpb.Params{Jwt: []*configpb.JwtCheck{check}}
	}
	tokenChecks := func(n int) *configpb.Params {
		return &configpb.Params{Jwt: slices.Repeat(token(func(*configpb.JwtCheck) {}).GetJwt(), n)}
	}
	basic := func(n int) *configpb.Params {
		return &configpb.Params{Basic: slices.Repeat([]*configpb.BasicCheck{{SubjectProperty: proto.String("a"), Users: "u"}}, n)}
	}
	claim := func(n int, rule *configpb.ClaimRule) *configpb.Params {
		if rule.GetPath() == "" {
			rule.Path = "a"
		}
		return token(func(c *configpb.JwtCheck) { c.Claims = slices.Repeat([]*configpb.ClaimRule{rule}, n) })
	}
	responseHeaders := func(n int) *configpb.Params {
		headers := map[string]string{}
		for i := range n {
			headers[fmt.Sprintf("x-%d", i)] = "v"
		}
		return response(&configpb.HttpResponse{Headers: headers})
	}

	for name, c := range map[string]struct {
		accepted, refused *configpb.Params
		problem           string
	}{
		"name": {
			keyed(func(p *configpb.Params) { p.Name = strings.Repeat("n", 63) }),
			keyed(func(p *configpb.Params) { p.Name = strings.Repeat("n", 64) }),
			"name: has 64 bytes; use at most 63",
		},
		"check name": {
			header(&configpb.HeaderCheck{Name: strings.Repeat("n", 63), Values: []string{"value"}}),
			header(&configpb.HeaderCheck{Name: strings.Repeat("n", 64), Values: []string{"value"}}),
			"headers[0].name: has 64 bytes; use at most 63",
		},
		"auth_key": {
			&configpb.Params{AuthKey: proto.String(strings.Repeat("k", 16<<10))},
			&configpb.Params{AuthKey: proto.String(strings.Repeat("k", 16<<10+1))},
			"auth_key: has 16385 bytes; use at most 16384",
		},
		"value": {
			header(&configpb.HeaderCheck{Values: []string{strings.Repeat("k", 16<<10)}}),
			header(&configpb.HeaderCheck{Values: []string{strings.Repeat("k", 16<<10+1)}}),
			"headers[0].values[0]: has 16385 bytes; use at most 16384",
		},
		"checks": {checks(256), checks(257), "headers: has 257 checks; use at most 256"},
		"expected values of all kinds": {
			header(&configpb.HeaderCheck{Values: slices.Repeat([]string{"value"}, 9_999), Secrets: []string{"s"}}),
			header(&configpb.HeaderCheck{Values: slices.Repeat([]string{"value"}, 9_999), Secrets: []string{"s"}, Sha256: []string{strings.Repeat("a", 64)}}),
			"headers[0]: has 10001 expected values; use at most 10000",
		},
		"modules": {
			rego(slices.Repeat([]string{"package a"}, 256)...), rego(slices.Repeat([]string{"package a"}, 257)...),
			"policy: has 257 modules; use at most 256",
		},
		"policy bytes": {
			rego("package a", strings.Repeat("#", 1<<20-len("package a"))), rego("package a", strings.Repeat("#", 1<<20-len("package a")+1)),
			"policy: has 1048577 bytes in all; use at most 1048576",
		},
		"check_method": {
			&configpb.Params{Policy: []string{"package a"}, CheckMethod: proto.String(strings.Repeat("m", 1024))},
			&configpb.Params{Policy: []string{"package a"}, CheckMethod: proto.String(strings.Repeat("m", 1025))},
			"check_method: has 1025 bytes; use at most 1024",
		},
		"denial message": {
			keyed(func(p *configpb.Params) { p.Denial = &configpb.Denial{Message: strings.Repeat("m", 1024)} }),
			keyed(func(p *configpb.Params) { p.Denial = &configpb.Denial{Message: strings.Repeat("m", 1025)} }),
			"denial.message: has 1025 bytes; use at most 1024",
		},
		"HTTP status, least": {
			response(&configpb.HttpResponse{Status: 300}), response(&configpb.HttpResponse{Status: 299}),
			"denial.http.status: is 299; use 300 to 599",
		},
		"HTTP status, most": {
			response(&configpb.HttpResponse{Status: 599}), response(&configpb.HttpResponse{Status: 600}),
			"denial.http.status: is 600; use 300 to 599",
		},
		"HTTP body": {
			response(&configpb.HttpResponse{Body: strings.Repeat("b", 64<<10)}), response(&configpb.HttpResponse{Body: strings.Repeat("b", 64<<10+1)}),
			"denial.http.body: has 65537 bytes; use at most 65536",
		},
		"HTTP headers": {responseHeaders(64), responseHeaders(65), "denial.http.headers: has 65 entries; use at most 64"},
		"lifetime, shortest": {
			allow(&configpb.Lifetime{Duration: durationpb.New(time.Millisecond)}), allow(&configpb.Lifetime{Duration: durationpb.New(time.Millisecond - 1)}),
			"lifetimes.allow.duration: is 999.999µs; use 1ms to 24h0m0s",
		},
		"lifetime, longest": {
			allow(&configpb.Lifetime{Duration: durationpb.New(24 * time.Hour)}), allow(&configpb.Lifetime{Duration: durationpb.New(24*time.Hour + 1)}),
			"lifetimes.allow.duration: is 24h0m0.000000001s; use 1ms to 24h0m0s",
		},
		"uses, fewest": {
			allow(&configpb.Lifetime{Uses: proto.Int64(1)}), allow(&configpb.Lifetime{Uses: proto.Int64(0)}),
			"lifetimes.allow.uses: is 0; use 1 to 2147483647, or single_use",
		},
		"uses, most": {
			allow(&configpb.Lifetime{Uses: proto.Int64(math.MaxInt32)}), allow(&configpb.Lifetime{Uses: proto.Int64(math.MaxInt32 + 1)}),
			"lifetimes.allow.uses: is 2147483648; use 1 to 2147483647, or single_use",
		},
		// A count of 2^32+1 is 1 in the low 32 bits.
		"uses that would wrap": {
			allow(&configpb.Lifetime{Uses: proto.Int64(1)}), allow(&configpb.Lifetime{Uses: proto.Int64(1<<32 + 1)}),
			"lifetimes.allow.uses: is 4294967297; use 1 to 2147483647, or single_use",
		},
		"evaluation_timeout, shortest": {
			timeout(durationpb.New(time.Millisecond)), timeout(durationpb.New(time.Millisecond - 1)),
			"evaluation_timeout: is 999.999µs; use 1ms to 1m0s",
		},
		"evaluation_timeout, longest": {
			timeout(durationpb.New(time.Minute)), timeout(durationpb.New(time.Minute + 1)),
			"evaluation_timeout: is 1m0.000000001s; use 1ms to 1m0s",
		},
		"response header value": {
			response(&configpb.HttpResponse{Headers: map[string]string{"x-a": strings.Repeat("v", config.MaxHeaderValueBytes)}}),
			response(&configpb.HttpResponse{Headers: map[string]string{"x-a": strings.Repeat("v", config.MaxHeaderValueBytes+1)}}),
			`denial.http.headers["x-a"]: has a value of 8193 bytes; use at most 8192`,
		},
		"token checks": {tokenChecks(16), tokenChecks(17), "jwt: has 17 checks; use at most 16"},
		"issuers": {
			token(func(c *configpb.JwtCheck) { c.Issuers = slices.Repeat([]string{"i"}, 64) }),
			token(func(c *configpb.JwtCheck) { c.Issuers = slices.Repeat([]string{"i"}, 65) }),
			"jwt[0].issuers: has 65 names; use at most 64",
		},
		"audience": {
			token(func(c *configpb.JwtCheck) { c.Audiences = []string{strings.Repeat("a", 1024)} }),
			token(func(c *configpb.JwtCheck) { c.Audiences = []string{strings.Repeat("a", 1025)} }),
			"jwt[0].audiences[0]: has 1025 bytes; use at most 1024",
		},
		"algorithms": {
			token(func(c *configpb.JwtCheck) {
				c.Algorithms = slices.Concat(config.SignatureAlgorithms(false), config.SignatureAlgorithms(true))
			}),
			token(func(c *configpb.JwtCheck) { c.Algorithms = slices.Repeat([]string{"RS256"}, 14) }),
			"jwt[0].algorithms: has 14 names, more than there are algorithms; name each once",
		},
		"leeway": {
			token(func(c *configpb.JwtCheck) { c.Leeway = durationpb.New(5 * time.Minute) }),
			token(func(c *configpb.JwtCheck) { c.Leeway = durationpb.New(-1) }),
			"jwt[0].leeway: is -1ns; use 0s to 5m0s",
		},
		"max_age": {
			token(func(c *configpb.JwtCheck) { c.MaxAge = durationpb.New(8760 * time.Hour) }),
			token(func(c *configpb.JwtCheck) { c.MaxAge = durationpb.New(8760*time.Hour + 1) }),
			"jwt[0].max_age: is 8760h0m0.000000001s; use 1s to 8760h0m0s",
		},
		"claims": {
			claim(64, &configpb.ClaimRule{Equals: proto.String("x")}), claim(65, &configpb.ClaimRule{Equals: proto.String("x")}),
			"jwt[0].claims: has 65 rules; use at most 64",
		},
		"one_of": {
			claim(1, &configpb.ClaimRule{OneOf: slices.Repeat([]string{"x"}, 1000)}), claim(1, &configpb.ClaimRule{OneOf: slices.Repeat([]string{"x"}, 1001)}),
			"jwt[0].claims[0].one_of: has 1001 values; use at most 1000",
		},
		"pattern": {
			claim(1, &configpb.ClaimRule{Pattern: proto.String(strings.Repeat("x", 1024))}),
			claim(1, &configpb.ClaimRule{Pattern: proto.String(strings.Repeat("x", 1025))}),
			"jwt[0].claims[0].pattern: has 1025 bytes; use at most 1024",
		},
		"basic checks": {
			basic(16), basic(17), "basic: has 17 checks; use at most 16",
		},
		"claim pattern, written out": {
			claim(1, &configpb.ClaimRule{Pattern: proto.String("(ab[cd]){1000}[a-f]{96}")}), claim(1, &configpb.ClaimRule{Pattern: proto.String("(ab[cd]){1000}[a-f]{97}")}),
			`jwt[0].claims[0].pattern: is "(ab[cd]){1000}[a-f]{97}", which becomes too large with its repetitions written out; use a simpler one`,
		},
		"path": {
			claim(1, &configpb.ClaimRule{Path: strings.Repeat("x", 1024), Equals: proto.String("x")}),
			claim(1, &configpb.ClaimRule{Path: strings.Repeat("x", 1025), Equals: proto.String("x")}),
			"jwt[0].claims[0].path: has 1025 bytes; use at most 1024",
		},
		"realm": {
			token(func(c *configpb.JwtCheck) {
				c.WwwAuthenticate = &configpb.WwwAuthenticate{Realm: strings.Repeat("r", 256)}
			}),
			token(func(c *configpb.JwtCheck) {
				c.WwwAuthenticate = &configpb.WwwAuthenticate{Realm: strings.Repeat("r", 257)}
			}),
			"jwt[0].www_authenticate.realm: has 257 bytes; use at most 256",
		},
		"duration whose parts disagree": {
			timeout(&durationpb.Duration{Seconds: 1, Nanos: 1}), timeout(&durationpb.Duration{Seconds: 1, Nanos: -1}),
			`evaluation_timeout: is no valid duration (1 seconds, -1 nanoseconds); write one such as "1.5s"`,
		},
		"duration that overflows Go's": {
			timeout(&durationpb.Duration{Seconds: 1}), timeout(&durationpb.Duration{Seconds: math.MaxInt64}),
			`evaluation_timeout: is no valid duration (9223372036854775807 seconds, 0 nanoseconds); write one such as "1.5s"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := config.Parse(encode(t, c.accepted))
			assert.Empty(t, problems)
			_, problems = config.Parse(encode(t, c.refused))
			require.Len(t, problems, 1)
			assert.Equal(t, c.problem, problems[0].String())
		})
	}
}

// A few megabytes of the cheapest mistakes must not become gigabytes of text, nor hide a problem of the failure section.
func TestFloodsOfProblemsAreBounded(t *testing.T) {
	t.Parallel()
	open := &configpb.Failure{Timeout: configpb.Failure_OPEN}
	unsound := &configpb.Failure{Timeout: configpb.Failure_OPEN, Panic: 99}
	emptyHeaders := make([]*configpb.HeaderCheck, 100_000)
	for i := range emptyHeaders {
		emptyHeaders[i] = &configpb.HeaderCheck{}
		emptyHeaders[i].ProtoReflect().SetUnknown([]byte(varint(99, 1)))
	}
	var unknownFields strings.Builder
	for i := range 100_000 {
		unknownFields.WriteString(varint(1000+i, 1))
	}

	for name, params := range map[string]*configpb.Params{
		"empty modules":    {Policy: make([]string, 100_000)},
		"empty values":     {Headers: []*configpb.HeaderCheck{{Values: make([]string, 10_000)}}},
		"bad checks":       {Headers: emptyHeaders},
		"unknown fields":   {},
		"response headers": {Denial: &configpb.Denial{Http: &configpb.HttpResponse{Headers: manyBadHeaders(10_000)}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			with := func(failure *configpb.Failure) []byte {
				clone := proto.CloneOf(params)
				clone.Failure = failure
				encoded := encode(t, clone)
				if name == "unknown fields" {
					encoded = append(encoded, unknownFields.String()...)
				}
				return encoded
			}
			handler, problems := config.Parse(with(open))
			require.NotEmpty(t, problems)
			assert.LessOrEqual(t, len(problems), 102)
			assert.Equal(t, "open: timeout", handler.Modes.String())
			assert.Contains(t, problems, config.Problem{Field: "params", Text: "has more than the 100 problems listed; mend these first"})
			assert.Less(t, len(problems.Error()), 8<<10)

			handler, problems = config.Parse(with(unsound))
			assert.LessOrEqual(t, len(problems), 102)
			assert.Equal(t, "all closed", handler.Modes.String())
		})
	}
}

func manyBadHeaders(n int) map[string]string {
	headers := map[string]string{}
	for i := range n {
		headers[fmt.Sprintf("x %d", i)] = "v"
	}
	return headers
}

func TestNewHTTPResponseCopiesHeaders(t *testing.T) {
	t.Parallel()
	headers := map[string]string{"X-A": "1"}
	before := maps.Clone(headers)
	response, problems := config.NewHTTPResponse(401, "", headers)
	require.Empty(t, problems)
	headers["X-A"] = "2"
	assert.Equal(t, before, response.Headers)
}

// What has a problem is not in the response either: a caller that went on all the same would send nothing harmful.
func TestNewHTTPResponseLeavesOutWhatIsWrong(t *testing.T) {
	t.Parallel()
	response, problems := config.NewHTTPResponse(200, "", map[string]string{"X-A": "a\r\nb", "Set-Cookie": "a,b", "": "c", "X-Good": "d"})
	assert.Len(t, problems, 4)
	assert.Equal(t, map[string]string{"X-Good": "d"}, response.Headers)
	assert.Zero(t, response.Status)
}
