package adapter

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

const property = "custom_token_header"

// remembering is a policy whose answers are remembered, and forgetful one whose answers are not.
const (
	remembering = "package mixerauthz\nallow { input.action.method }"
	forgetful   = "package mixerauthz\nallow { time.now_ns() > 0 }"
)

func basicParams(name string) *configpb.Params {
	return &configpb.Params{Name: name, Basic: []*configpb.BasicCheck{{
		SubjectProperty: proto.String(property), Users: "staff", WwwAuthenticate: &configpb.WwwAuthenticate{Off: true},
	}}}
}

func tokenParams(name string) *configpb.Params {
	return &configpb.Params{Name: name, Jwt: []*configpb.JwtCheck{{
		SubjectProperty: proto.String(property), Keys: "idp", Issuers: []string{"https://idp.example.com"}, AnyAudience: true, Algorithms: []string{"HS256"},
	}}}
}

// withCandidate is a handler that takes one credential by itself and has a candidate.
func withCandidate(name, credential string, candidate *configpb.Params) []byte {
	params := keyParams(name, credential)
	candidate = proto.CloneOf(candidate)
	candidate.Name = ""
	params.Shadow = &configpb.Shadow{Candidate: candidate}
	return mixertest.Call(params, credential)
}

// credentialFiles makes files of a key set and of users for the settings, and a token. The users are alice and slow, whose hash takes long.
func credentialFiles(t *testing.T, s *settings.Settings) (token string) {
	t.Helper()
	directory := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(directory, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	hash := func(cost int) string {
		hash, err := bcrypt.GenerateFromPassword([]byte("secret"), cost)
		require.NoError(t, err)
		return string(hash)
	}
	const fast, slow = 5, 11 // a sixth of a second, and with the race detector on a busy machine some seconds
	encode := base64.RawURLEncoding.EncodeToString
	key := []byte(strings.Repeat("k", sha256.Size))
	s.Htpasswd = map[string]settings.Htpasswd{"staff": {File: write("staff", "alice:"+hash(fast)+"\nslow:"+hash(slow)+"\n")}}
	s.KeySets = map[string]settings.KeySet{"idp": {
		File: write("keys", fmt.Sprintf(`{"keys": [{"kty": "oct", "kid": "k", "alg": "HS256", "k": %q}]}`, encode(key))), Symmetric: true,
	}}
	token = encode([]byte(`{"alg":"HS256","kid":"k"}`)) + "." +
		encode(fmt.Appendf(nil, `{"iss":"https://idp.example.com","sub":"alice","exp":%d}`, time.Now().Add(2*time.Hour).Unix()))
	sum := hmac.New(sha256.New, key)
	_, _ = sum.Write([]byte(token))
	return token + "." + encode(sum.Sum(nil))
}

func login(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func (s *service) awaitMetric(t *testing.T, line string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, metrics := s.get(t, "/metrics")
		return strings.Contains(metrics, "\n"+line)
	}, patience, time.Millisecond, line)
}

// occupied takes the one place at the gate of checks while it runs.
func (s *service) occupied(t *testing.T, during func()) {
	t.Helper()
	hog := regoParams("hog", looping)
	hog.EvaluationTimeout = durationpb.New(time.Minute)
	code := func() config.Code {
		return config.Code(s.send(t, mixertest.Call(regoParams("probe", forgetful), "")).Status.Code)
	}
	s.become(t, config.OK, code)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil { // a probe may have the place when it comes
			_, _ = mixertest.Send(ctx, s.connection, mixertest.Call(hog, ""))
		}
	}()
	s.become(t, config.Unavailable, code)
	during()
	cancel()
	<-ended
	s.become(t, config.OK, code)
}

// What a candidate verified is not known to the checks that decide: where there is no place to verify anything, they know only what they
// verified themselves. Nor does a candidate wait for their places.
func TestCandidatesKeepWhatTheyVerified(t *testing.T) {
	var token string
	s := start(t, func(s *settings.Settings) {
		s.Limits.ConcurrentChecks, s.Limits.QueueWait = 1, time.Millisecond
		token = credentialFiles(t, s)
	})
	for _, c := range []struct {
		name, credential string
		params           *configpb.Params
	}{
		{"token", token, tokenParams("token-active")},
		{"password", login("alice", "secret"), basicParams("password-active")},
	} {
		t.Run(c.name, func(t *testing.T) {
			shadowed, active := withCandidate(c.name, c.credential, c.params), mixertest.Call(c.params, c.credential)
			code := func() config.Code { return config.Code(s.send(t, active).Status.Code) }
			agreed := `tollgate_shadow_decisions_total{divergence="agree",handler="` + c.name + `"} `
			assert.Zero(t, s.send(t, shadowed).Status.Code)
			s.awaitMetric(t, agreed+"1\n")
			s.occupied(t, func() {
				s.become(t, config.Unavailable, code)
				assert.Zero(t, s.send(t, shadowed).Status.Code)
				s.awaitMetric(t, agreed+"2\n")
			})
			s.become(t, config.OK, code)
			s.occupied(t, func() { assert.Equal(t, config.OK, code(), "what was verified is remembered") })
		})
	}
}

// A candidate that verifies a password keeps no check from verifying one.
func TestCandidatesTakeNoTurnAtPasswords(t *testing.T) {
	s := start(t, func(s *settings.Settings) {
		s.Limits.ConcurrentChecks, s.Limits.ShadowChecks = 4, 1 // so that one password is verified, and none waits
		s.EvaluationTimeout = time.Minute                       // for a busy machine
		credentialFiles(t, s)
	})
	active := basicParams("active")
	shadowed := withCandidate("shadowed", login("slow", "wrong"), active)
	s.become(t, config.PermissionDenied, func() config.Code { return config.Code(s.send(t, mixertest.Call(active, "none")).Status.Code) })
	assert.Zero(t, s.send(t, shadowed).Status.Code)
	// Either it still verifies, and there is no place for another, or it was that fast.
	require.Eventually(t, func() bool {
		assert.Zero(t, s.send(t, shadowed).Status.Code)
		_, metrics := s.get(t, "/metrics")
		return strings.Contains(metrics, `tollgate_shadow_not_compared_total{handler="shadowed",reason="busy"}`) ||
			strings.Contains(metrics, `tollgate_shadow_decisions_total{divergence="would_deny",handler="shadowed"}`)
	}, patience, time.Millisecond)
	result := s.send(t, mixertest.Call(active, login("alice", "wrong")))
	assert.Equal(t, config.PermissionDenied, config.Code(result.Status.Code), result.Status.Message)
	s.awaitMetric(t, `tollgate_shadow_decisions_total{divergence="would_deny",handler="shadowed"}`)
}

// A candidate takes none of the memory for decisions.
func TestCandidatesRememberNoDecisions(t *testing.T) {
	s := start(t, nil)
	shadowed := withCandidate("shadowed", "abc", regoParams("", remembering))
	for i := range 3 {
		assert.Zero(t, s.send(t, shadowed).Status.Code)
		s.awaitMetric(t, fmt.Sprintf("tollgate_shadow_decisions_total{divergence=\"agree\",handler=\"shadowed\"} %d\n", i+1))
	}
	assert.Equal(t, 0, s.decisionsRemembered(t))
	for range 2 {
		assert.Zero(t, s.send(t, mixertest.Call(regoParams("active", remembering), "abc")).Status.Code)
	}
	assert.Equal(t, 1, s.decisionsRemembered(t))
}

func (s *service) decisionsRemembered(t *testing.T) (entries int) {
	t.Helper()
	_, metrics := s.get(t, "/metrics")
	for line := range strings.Lines(metrics) {
		if _, err := fmt.Sscanf(line, "tollgate_decision_cache_entries %d", &entries); err == nil {
			return entries
		}
	}
	require.Fail(t, "there is no such metric")
	return 0
}

// A candidate takes from no quota, not even from one of its own, and to add it or take it away starts no count anew.
func TestCandidatesTakeFromNoQuota(t *testing.T) {
	s := start(t, nil)
	quotas := []*configpb.Quota{{Amount: 10, Window: durationpb.New(time.Hour)}}
	params := keyParams("both", "abc")
	params.Quotas = quotas
	shadowed := proto.CloneOf(params)
	shadowed.Shadow = &configpb.Shadow{Candidate: &configpb.Params{AuthKey: proto.String("def"), Quotas: quotas}}
	take := func(params *configpb.Params, id string) int64 {
		t.Helper()
		result, err := mixertest.SendQuota(t.Context(), s.connection, mixertest.Quota(mixertest.Params(params), id, map[string]string{"user": "alice"}, 4, true))
		require.NoError(t, err)
		return result.GrantedAmount
	}
	assert.EqualValues(t, 4, take(params, "a"))
	for i := range 3 {
		assert.Zero(t, s.send(t, mixertest.Call(shadowed, "abc")).Status.Code)
		s.awaitMetric(t, fmt.Sprintf("tollgate_shadow_decisions_total{divergence=\"would_deny\",handler=\"both\"} %d\n", i+1))
	}
	assert.EqualValues(t, 4, take(shadowed, "b"), "the same count")
	assert.EqualValues(t, 4, take(shadowed, "b"), "a repeat")
	assert.EqualValues(t, 2, take(params, "c"))
	assert.EqualValues(t, 0, take(shadowed, "d"))
	_, metrics := s.get(t, "/metrics")
	assert.Contains(t, metrics, "tollgate_quota_counts 1\n")
	assert.Contains(t, metrics, `tollgate_shadow_decisions_total{divergence="would_deny",handler="both"} 3`+"\n", "quota calls have no candidate")
	assert.NotContains(t, metrics, "tollgate_shadow_not_compared_total{")
}

// A rule that is there for a candidate alone is not there for a handler.
func TestCandidatesKeepNoRulesForHandlers(t *testing.T) {
	directory := t.TempDir()
	write := func(rule string) {
		path := filepath.Join(directory, "shop.rego")
		require.NoError(t, os.WriteFile(path+".new", []byte("package shop\n"+rule+" := true\n"), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	write("allow")
	s := start(t, func(s *settings.Settings) {
		s.Policies = map[string]settings.PolicySource{"shop": {Directory: directory}}
	})
	active := &configpb.Params{Name: "active", PolicySource: "shop", CheckMethod: proto.String("data.shop.allow")}
	shadowed := withCandidate("shadowed", "abc", active)
	assert.Zero(t, s.send(t, shadowed).Status.Code)
	s.awaitMetric(t, `tollgate_shadow_decisions_total{divergence="agree",handler="shadowed"}`)
	write("permit")
	s.awaitMetric(t, `tollgate_policy_rules{source="shop",state="behind"} 1`)
	assert.Equal(t, config.Unavailable, config.Code(s.send(t, mixertest.Call(active, "")).Status.Code))
}
