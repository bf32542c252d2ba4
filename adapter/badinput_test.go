package adapter

import (
	"context"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"istio.io/api/mixer/adapter/model/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// open opens every class of failure.
func open(params *configpb.Params) *configpb.Params {
	params.Failure = &configpb.Failure{
		Configuration: configpb.Failure_OPEN, PolicyNotLoaded: configpb.Failure_OPEN, EvaluationError: configpb.Failure_OPEN,
		UndefinedResult: configpb.Failure_OPEN, Timeout: configpb.Failure_OPEN, DependencyDown: configpb.Failure_OPEN,
		Overload: configpb.Failure_OPEN, Panic: configpb.Failure_OPEN,
	}
	return params
}

// Each of these ends as the handler says, while the caller still waits.
func TestServiceAnswersFailingPoliciesInTime(t *testing.T) {
	s := start(t, nil)
	for name, c := range map[string]struct {
		source, class string
	}{
		"loops for minutes":     {looping, "timeout"},
		"yields a string":       {"package mixerauthz\nallow = \"yes\" { true }", "evaluation error"},
		"yields a number":       {"package mixerauthz\nallow = 1 { true }", "evaluation error"},
		"yields nothing":        {"package mixerauthz\nallow { input.subject.user == \"bob\" }", "undefined result"},
		"yields two values":     {"package mixerauthz\nallow = false { true }\nallow = true { true }", "evaluation error"},
		"does not parse":        {"package mixerauthz\nallow {", "configuration"},
		"does not compile":      {"package mixerauthz\nallow { x }", "configuration"},
		"recurses":              {"package mixerauthz\nallow { allow }", "configuration"},
		"reaches for the net":   {"package mixerauthz\nallow { http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"}).status_code == 200 }", "configuration"},
		"is no text":            {"package mixerauthz\nallow { \x00 }", "configuration"},
		"is nested deeply":      {"package mixerauthz\nallow { x := " + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000) + "; x == input }", "undefined result"},
		"is nested too deeply":  {"package mixerauthz\nallow { x := " + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "; x == input }", "configuration"},
		"has a hundred modules": {"package other", "configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			policy := func() *configpb.Params {
				params := regoParams("", c.source)
				for len(params.Policy) < 100 && c.source == "package other" {
					params.Policy = append(params.Policy, c.source)
				}
				return params
			}
			send := func(params *configpb.Params) (config.Code, string) {
				var (
					result *v1beta1.CheckResult
					err    = context.DeadlineExceeded
				)
				// A busy machine may sleep through the margin that is kept for the answer; not every time.
				for attempt := 0; attempt < 5 && err != nil; attempt++ {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					result, err = mixertest.Send(ctx, s.connection, mixertest.Call(params, "abc"))
					cancel()
				}
				require.NoError(t, err)
				if result.Status.Code == 0 {
					assert.Equal(t, config.SingleUse, lifetimeOf(result))
				}
				return config.Code(result.Status.Code), result.Status.Message
			}
			code, message := send(policy())
			// On a busy machine a handler may take longer to compile than a caller waits, or leave no time to evaluate it. It goes on, and is
			// there later.
			late := func() bool {
				return strings.HasSuffix(message, "(policy not loaded)") || c.class != "timeout" && strings.HasSuffix(message, "(timeout)")
			}
			for deadline := time.Now().Add(patience); late() && time.Now().Before(deadline); {
				code, message = send(policy())
			}
			assert.Equal(t, config.Unavailable, code)
			assert.Equal(t, "the request could not be checked ("+c.class+")", message)
			code, _ = send(open(policy()))
			assert.Equal(t, config.OK, code)
			closed := policy()
			closed.FailClose = proto.Bool(true)
			code, _ = send(closed)
			assert.Equal(t, config.PermissionDenied, code)
		})
	}
}

func TestServiceAnswersHugeCalls(t *testing.T) {
	s := start(t, nil)
	huge := regoParams("huge", "package mixerauthz\nallow = true\n#"+strings.Repeat("x", 10<<20))
	large := regoParams("large", "package mixerauthz\nallow = true\n#"+strings.Repeat("x", 2<<20))
	for name, call := range map[string][]byte{
		"a policy of 10 MiB":       mixertest.Call(huge, "abc"),
		"the same, open":           mixertest.Call(open(huge), "abc"),
		"a policy of 2 MiB":        mixertest.Call(large, "abc"),
		"a token of 10 MiB":        mixertest.Call(keyParams("key", "abc"), strings.Repeat("abc", 10<<20/3)),
		"a name of 10 MiB":         mixertest.Call(keyParams(strings.Repeat("n", 10<<20), "abc"), "abc"),
		"10 MiB of nothing":        make([]byte, 10<<20),
		"10 MiB of unknown fields": []byte(strings.Repeat("\x20\x01", 5<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			result, err := mixertest.Send(ctx, s.connection, call)
			require.NoError(t, err)
			assert.Contains(t, []config.Code{config.Unavailable, config.PermissionDenied}, config.Code(result.Status.Code))
		})
	}
	// One that is too large to be decoded has no modes; one that is decoded and too large has.
	assert.Zero(t, s.send(t, mixertest.Call(open(large), "abc")).Status.Code)

	for name, size := range map[string]int{"just within": 16<<20 - 10, "beyond": 16<<20 + 1} {
		t.Run(name, func(t *testing.T) {
			_, err := mixertest.Send(t.Context(), s.connection, make([]byte, size))
			if name == "just within" {
				require.NoError(t, err)
				return
			}
			assert.Equal(t, codes.ResourceExhausted, status.Code(err))
			assert.ErrorContains(t, err, "16777217 vs. 16777216")
		})
	}
	s.awaitMetric(t, "tollgate_refused_total{reason=\"message_bytes\"} 1\n")
	assert.Zero(t, s.send(t, mixertest.Call(keyParams("key", "abc"), "abc")).Status.Code)
}

func TestServiceRefusesWhatIsNoCall(t *testing.T) {
	s := start(t, nil)
	var reply []byte
	for method, want := range map[string]codes.Code{
		"/authorization.HandleAuthorizationService/Other": codes.Unimplemented,
		"/logentry.HandleLogEntryService/HandleLogEntry":  codes.InvalidArgument,
		"/quota.HandleQuotaService/Other":                 codes.Unimplemented,
		"/grpc.health.v1.Health/Check":                    codes.Internal,
	} {
		err := s.connection.Invoke(t.Context(), method, []byte("\x0a\x7f"), &reply, grpc.ForceCodecV2(mixertest.Raw{}))
		assert.Equal(t, want, status.Code(err), method)
	}
}

// Whoever floods the adapter with new configurations slows himself down and is refused; nobody is let through for it.
func TestServiceUnderAFloodOfConfigurations(t *testing.T) {
	s := start(t, func(s *settings.Settings) {
		s.Limits.Handlers.Waiting = 4
		s.Limits.Handlers.Entries = 8
	})
	const callers, each = 16, 20
	outcomes := make(chan config.Code, callers*each)
	for caller := range callers {
		go func() {
			for i := range each {
				name := "h-" + hex.EncodeToString([]byte{byte(caller), byte(i)})
				params := regoParams(name, "package mixerauthz\nallow { input.subject.user == \""+name+"\" }\nallow = false { input.subject.user == \"alice\" }")
				result, err := mixertest.Send(context.Background(), s.connection, mixertest.Call(params, "abc"))
				if err != nil {
					outcomes <- -1
					continue
				}
				outcomes <- config.Code(result.Status.Code)
			}
		}()
	}
	count := map[config.Code]int{}
	for range callers * each {
		count[<-outcomes]++
	}
	assert.Equal(t, callers*each, count[config.PermissionDenied]+count[config.Unavailable], count)
	assert.Positive(t, count[config.PermissionDenied])
	require.Eventually(t, func() bool {
		return s.send(t, mixertest.Call(keyParams("key", "abc"), "abc")).Status.Code == 0
	}, patience, 10*time.Millisecond)
}

// A secret in every place that a credential may stand in, and every outcome: nothing that leaves the process shows it. What the
// log leaves out because it says the same thing too often is looked at in package mixer.
func TestServiceShowsNoSecret(t *testing.T) {
	const (
		secret = "S3cr3tOfTheOperator"
		token  = "T0kenOfTheCaller"
	)
	s := start(t, func(s *settings.Settings) { s.Log.Level = "info" })
	s.setLevel(t, "debug")
	var replies strings.Builder
	calls := append(mixertest.SecretCalls(secret, token), []byte(strings.Repeat(token, 16<<20/len(token)+1)))
	for _, call := range calls {
		result, err := mixertest.Send(t.Context(), s.connection, call)
		if err != nil {
			replies.WriteString(err.Error())
			continue
		}
		replies.WriteString(result.String())
	}
	require.Contains(t, replies.String(), "malformed request")
	code, metrics := s.get(t, "/metrics")
	require.Equal(t, http.StatusOK, code)
	_, stacks := s.get(t, "/debug/pprof/goroutine?debug=2")
	_, page := s.get(t, "/")
	require.Contains(t, page, `<span class="failed_open">failed open</span>`)
	_, status := s.get(t, "/status.json")
	log := s.log.String()
	for _, outcome := range []string{`"msg":"decision"`, `"outcome":"allow"`, `"outcome":"deny"`, `"outcome":"failed_open"`, `"outcome":"failed_closed"`, `"class":"evaluation_error"`, `"class":"configuration"`} {
		require.Contains(t, log, outcome)
	}
	for place, text := range map[string]string{"log": log, "metrics": metrics, "replies": replies.String(), "stacks": stacks, "page": page, "status": status} {
		for _, planted := range []string{secret, token} {
			if i := strings.Index(text, planted); i >= 0 {
				t.Errorf("the %s shows %s: …%s…", place, planted, text[max(0, i-300):min(len(text), i+100)])
			}
		}
	}
}
