// Package mixer_test runs Tollgate's real binary between real Mixers: what an operator applies, what Mixer makes of it
// and what a proxy is told in the end.
//
// Each release's Mixer gets one configuration, in which the scenarios are told apart by the request's path. Everything
// that plays a credential here starts with "planted", so that the last scenario can look for it where it must not be.
package mixer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/test/mixer/constant"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
	"github.com/tollgate-mesh/tollgate/test/mixer/slowlink"
)

// root is the repository's.
const root = "../.."

// late is how much later the answer of a late adapter reaches Mixer. Where what is expected depends on it that the other answer comes first, it is
// surelyLate: a busy machine may keep the other one for longer than the former.
const (
	late       = 250 * time.Millisecond
	surelyLate = 2 * time.Second
)

// scenarios run one after the other, for some need the machine's time to themselves. The last looks back on all of them.
var scenarios = []struct {
	name string
	run  func(*testing.T, *suite)
}{
	{"examples", testExamples},
	{"mixc", testExamplesWithMixc},
	{"update", testUpdate},
	{"mistakes", testMistakes},
	{"missing template", testMissingTemplate},
	{"denials", testDenials},
	{"lifetimes", testLifetimes},
	{"merge", testMerge},
	{"version to come", testVersionToCome},
	{"opa", testOPA},
	{"jwt", testJWT},
	{"bounds", testBounds},
	{"policies", testPolicies},
	{"lists", testLists},
	{"api keys", testAPIKeys},
	{"nothing", testNothing},
	{"quota", testQuota},
	{"quota in redis", testQuotaInRedis},
	{"quota example", testQuotaExample},
	{"check examples", testCheckExamples},
	{"policy sources", testPolicySources},
	{"policy examples", testPolicyExamples},
	{"failures", testFailureMatrix},
	{"crowd", testCrowd},
	{"reports", testReports},
	{"report examples", testReportExamples},
	{"decision log", testDecisionLog},
	{"transport", testTransport},
	{"shadow", testShadow},
	{"candidates", testShadowFaults},
	{"restart", testRestart},
	{"large params", testLargeParams},
	{"secrecy", testSecrecy},
}

func TestMixer(t *testing.T) {
	t.Parallel()
	faulty := buildWithFaults(t)
	for _, version := range mesh.Versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := newSuite(t, version, faulty)
			for _, scenario := range scenarios {
				started := time.Now()
				t.Run(scenario.name, func(t *testing.T) { scenario.run(t, s) })
				t.Logf("%-16s %5.1fs", scenario.name, time.Since(started).Seconds())
			}
		})
	}
}

// unhurried is a setting for Tollgates whose answers are compared: the default of half a second may pass on a busy machine before a handler is compiled. What
// is to run out of time says so in its handler.
const unhurried = "evaluation_timeout: 5s\n"

// suite is one release's Mixer with everything that it talks to.
type suite struct {
	mixer *mesh.Mixer
	// tollgate serves most scenarios.
	tollgate *mesh.Tollgate
	// fragile is killed, tight takes on one check at a time and remembers none, impatient waits for no policy, and faulty was built with
	// fault injection.
	fragile, tight, impatient, faulty *mesh.Tollgate
	// secretFile holds the secret called token, which is planted-secret.
	secretFile string
	// idp makes the tokens that tollgate knows keys for.
	idp *identityProvider
	// listFile is the list called blocked: 192.0.2.0/24.
	listFile string
	// addresses replaces the addresses in resources.
	addresses *strings.Replacer
	// links are what makes adapters late.
	links []*slowlink.Link

	mu       sync.Mutex
	messages []string // everything that Mixer said to callers
}

func newSuite(t *testing.T, version, faulty string) *suite {
	t.Helper()
	s := &suite{secretFile: filepath.Join(t.TempDir(), "token"), idp: newIdentityProvider(t)}
	require.NoError(t, os.WriteFile(s.secretFile, []byte("planted-secret\n"), 0o600))

	s.listFile = filepath.Join(t.TempDir(), "blocked")
	require.NoError(t, os.WriteFile(s.listFile, []byte("192.0.2.0/24\n"), 0o600))

	debug := []string{"--log-level", "debug"}
	s.tollgate = meshtest.Tollgate(t, mesh.TollgateOptions{Args: debug, Settings: unhurried + fmt.Sprintf(
		// What never comes is not waited for.
		"readiness: {source_wait: 0s}\nsecrets: {files: {token: %q}}\nlists: {blocked: {type: ip_addresses, file: %q}, away: {file: %q}}\n%s",
		s.secretFile, s.listFile, filepath.Join(t.TempDir(), "away"), s.idp.settings())})
	s.fragile = meshtest.Tollgate(t, mesh.TollgateOptions{Args: debug, Settings: unhurried})
	s.tight = meshtest.Tollgate(t, mesh.TollgateOptions{Args: debug, Settings: unhurried +
		"limits: {concurrent_checks: 1, queue_wait: 1ms, decision_cache: {bytes: 0}}"})
	s.impatient = meshtest.Tollgate(t, mesh.TollgateOptions{Args: debug, Settings: "evaluation_timeout: 300ms"})
	s.faulty = meshtest.Tollgate(t, mesh.TollgateOptions{Args: debug, Path: faulty, Settings: unhurried})

	other, err := constant.Start()
	require.NoError(t, err)
	t.Cleanup(other.Stop)
	s.addresses = strings.NewReplacer(
		exampleAddress, s.tollgate.Addr,
		"tollgate:44225", s.tollgate.Addr,
		"tollgate-late:44225", s.delayed(t, s.tollgate.Addr),
		"tollgate-fragile:44225", s.fragile.Addr,
		"tollgate-tight:44225", s.tight.Addr,
		"tollgate-impatient:44225", s.impatient.Addr,
		"tollgate-faulty:44225", s.faulty.Addr,
		"constant:44225", other.Addr,
		"constant-late:44225", s.delayed(t, other.Addr),
	)

	resources := staticResources(t, version)
	for name, text := range resources {
		resources[name] = s.addresses.Replace(text)
	}
	s.mixer = meshtest.Mixer(t, version, mesh.MixerOptions{Resources: resources})
	return s
}

func (s *suite) delayed(t *testing.T, addr string) string {
	t.Helper()
	link, err := slowlink.Start(addr, late)
	require.NoError(t, err)
	t.Cleanup(link.Stop)
	s.links = append(s.links, link)
	return link.Addr
}

// inOrder does something for which the late adapters must not be heard first.
func (s *suite) inOrder(do func()) {
	delay := func(by time.Duration) {
		for _, link := range s.links {
			link.SetDelay(by)
		}
	}
	delay(surelyLate)
	defer delay(late)
	do()
}

// buildWithFaults builds a second binary whose policies can panic.
func buildWithFaults(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tollgate-with-faults")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "faultinjection", "-o", path, "./cmd/tollgate")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// apply gives Mixer further resources for the rest of the test.
func (s *suite) apply(t *testing.T, name, text string) {
	t.Helper()
	t.Cleanup(func() { assert.NoError(t, s.mixer.Delete(name)) })
	meshtest.Apply(t, s.mixer, name, s.addresses.Replace(text))
}

// applyLarge is apply for what Mixer takes in so slowly that it builds one configuration before it has seen the end.
func (s *suite) applyLarge(t *testing.T, name, text string) {
	t.Helper()
	t.Cleanup(func() { assert.NoError(t, s.mixer.Delete(name)) })
	require.NoError(t, s.mixer.ApplyAndSync(t.Context(), name, s.addresses.Replace(text)))
	// Mixer looks for changes again only when it is through with the ones before.
	require.NoError(t, s.mixer.Sync(t.Context()))
	meshtest.NoConfigErrors(t, s.mixer)
}

// patience bounds a test that fails and is no measure. Where the system has no watch left for a file, it is looked at every half minute.
const patience = 2 * time.Minute

func waitFor(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, mesh.WaitFor(ctx, what, check))
}

// await asks Mixer until the answer is acceptable.
func (s *suite) await(t *testing.T, what string, attributes mesh.Attributes, accept func(answer) bool) {
	t.Helper()
	waitFor(t, what, func(ctx context.Context) error {
		v, err := s.mixer.Check(ctx, attributes)
		if err == nil && !accept(answerOf(v)) {
			err = errors.New(v.String())
		}
		return err
	})
}

// request is a request to a path, with header names and values in turn. It is not the inbound one that the examples
// check.
func request(path string, headers ...string) mesh.Attributes {
	fields := map[string]string{}
	for i := 0; i+1 < len(headers); i += 2 {
		fields[headers[i]] = headers[i+1]
	}
	return mesh.Attributes{
		"context.reporter.kind": "outbound",
		"source.namespace":      "default",
		"destination.namespace": "default",
		"request.path":          path,
		"request.method":        "GET",
		"request.headers":       fields,
	}
}

// token is the header that most handlers look at.
func token(value string) []string { return []string{"x-custom-token", value} }

// check asks Mixer and takes no error for an answer. Mixer's own minute is an error too: it means that nobody was asked
// or that an answer lost its bounds.
func (s *suite) check(t *testing.T, attributes mesh.Attributes) *mesh.Verdict {
	t.Helper()
	v := s.checkFreely(t, attributes)
	assert.False(t, v.MixersOwnLifetime(), "%v: %v", attributes["request.path"], v)
	return v
}

// checkFreely is check for scenarios about Mixer's own behaviour.
func (s *suite) checkFreely(t *testing.T, attributes mesh.Attributes) *mesh.Verdict {
	t.Helper()
	v, err := s.mixer.Check(t.Context(), attributes)
	s.heard(v, err)
	require.NoError(t, err)
	return v
}

// tooLate is the error of a check whose answer came after its own deadline: Tollgate keeps at most 50 ms of it for the answer's way, which a busy machine
// may use up now and then. It lets nobody pass.
func tooLate(err error) bool {
	return status.Code(err) == codes.Internal && strings.Contains(err.Error(), "DeadlineExceeded")
}

// outOfTime tells from a denial whether the time that the handler has was over before its check was made.
func outOfTime(code codes.Code, message string) bool {
	return code == codes.Unavailable && (strings.Contains(message, "(policy not loaded)") || strings.Contains(message, "(timeout)"))
}

// checkInTime is check for handlers with a short connection.timeout, which a busy machine may use up.
func (s *suite) checkInTime(t *testing.T, attributes mesh.Attributes) *mesh.Verdict {
	t.Helper()
	return s.checkUnless(t, attributes, func(v *mesh.Verdict) bool { return outOfTime(v.Code, v.Message) })
}

// checkDecided is checkInTime for checks that take their time by nature, such as of a password: a busy machine may need more than the
// handler gives them. What is answered then lets nobody pass, and the next time the answer is remembered.
func (s *suite) checkDecided(t *testing.T, attributes mesh.Attributes) *mesh.Verdict {
	t.Helper()
	return s.checkUnless(t, attributes, func(v *mesh.Verdict) bool { return v.Code == codes.Unavailable })
}

// checkUnless asks again while the answer is too late or a denial that only tells that the time was too short.
func (s *suite) checkUnless(t *testing.T, attributes mesh.Attributes, undecided func(*mesh.Verdict) bool) *mesh.Verdict {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		v, err := s.mixer.Check(t.Context(), attributes)
		s.heard(v, err)
		if (tooLate(err) || err == nil && undecided(v)) && time.Now().Before(end) {
			continue
		}
		require.NoError(t, err)
		assert.False(t, v.MixersOwnLifetime(), "%v: %v", attributes["request.path"], v)
		return v
	}
}

// heard keeps what a caller was told.
func (s *suite) heard(v *mesh.Verdict, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.messages = append(s.messages, err.Error())
		return
	}
	s.messages = append(s.messages, v.Message)
	if v.Direct != nil {
		s.messages = append(s.messages, v.Direct.Body)
	}
	for _, header := range v.ResponseHeaders {
		s.messages = append(s.messages, header.Value)
	}
}

// answer is what of a verdict a proxy acts upon.
type answer struct {
	code      codes.Code
	validFor  time.Duration
	validUses int32
}

func answerOf(v *mesh.Verdict) answer { return answer{v.Code, v.ValidFor, v.ValidUses} }

func (a answer) String() string {
	return fmt.Sprintf("%v for %v, %d uses", a.code, a.validFor, a.validUses)
}

// The answers of handlers that leave the lifetimes as they are.
var (
	allowed     = answer{codes.OK, 5 * time.Second, 10000}
	allowedOnce = answer{codes.OK, -time.Second, 1}
	denied      = answer{codes.PermissionDenied, 0, 0}
	refused     = answer{codes.Unavailable, 0, 0}
)

// mixersOwn is what Mixer answers when no handler decides.
var mixersOwn = answer{codes.OK, time.Minute, 10000}

// expect checks a request and compares the whole answer.
func (s *suite) expect(t *testing.T, want answer, path string, headers ...string) *mesh.Verdict {
	t.Helper()
	v := s.check(t, request(path, headers...))
	assert.Equal(t, want.String(), answerOf(v).String(), "%s %q: %s", path, headers, v.Message)
	return v
}
