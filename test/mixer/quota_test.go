package mixer_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// asker asks one Mixer for quotas.
type asker struct {
	suite *suite
	mixer *mesh.Mixer
}

// calls makes the ids of calls different.
var calls atomic.Int64

func newCall() string { return fmt.Sprintf("call-%d-", calls.Add(1)) }

// ask asks for one quota. It may be called from any goroutine; what is no answer fails the test and grants nothing.
func (a asker) ask(t *testing.T, id, quota string, amount int64, bestEffort bool, attributes mesh.Attributes) mesh.QuotaVerdict {
	t.Helper()
	v, err := a.mixer.CheckQuotas(t.Context(), attributes, id, map[string]mesh.QuotaRequest{quota: {Amount: amount, BestEffort: bestEffort}})
	a.suite.heard(v, err)
	if err != nil || !v.OK() {
		t.Errorf("no answer about quota %s: %v, %v", quota, v, err)
		return mesh.QuotaVerdict{}
	}
	assert.Contains(t, v.Quotas, quota)
	return v.Quotas[quota]
}

// all and atMost ask on behalf of a user, each in a call of its own.
func (a asker) all(t *testing.T, quota, user string, amount int64) mesh.QuotaVerdict {
	t.Helper()
	return a.ask(t, newCall(), quota, amount, false, request("/any", "x-user", user))
}

func (a asker) atMost(t *testing.T, quota, user string, amount int64) mesh.QuotaVerdict {
	t.Helper()
	return a.ask(t, newCall(), quota, amount, true, request("/any", "x-user", user))
}

// The answers of failures: what a proxy is told.
var (
	refusedQuota = mesh.QuotaVerdict{ValidFor: time.Millisecond}
	openedQuota  = mesh.QuotaVerdict{Granted: 7, ValidFor: -time.Second}
)

// testQuota asks for quotas that are counted in memory.
func testQuota(t *testing.T, s *suite) {
	q := asker{s, s.mixer}
	granted := func(amount int64) mesh.QuotaVerdict {
		return mesh.QuotaVerdict{Granted: amount, ValidFor: 5 * time.Second}
	}
	exhausted := mesh.QuotaVerdict{ValidFor: 2 * time.Second}

	assert.Equal(t, granted(4), q.all(t, "q-memory", "alice", 4))
	assert.Equal(t, exhausted, q.all(t, "q-memory", "alice", 7), "all or nothing")
	assert.Equal(t, granted(6), q.atMost(t, "q-memory", "alice", 7), "what is left")
	assert.Equal(t, exhausted, q.atMost(t, "q-memory", "alice", 1))
	assert.Equal(t, granted(10), q.all(t, "q-memory", "bob", 10), "another's")
	assert.Equal(t, granted(20), q.atMost(t, "q-memory", "gold", 100), "an override")
	assert.Equal(t, exhausted, q.all(t, "q-memory", "none", 1), "an override of nothing")
	sized := request("/any", "x-user", "sized").With(mesh.Attributes{"request.size": int64(7)})
	assert.Equal(t, granted(3), q.ask(t, newCall(), "q-memory", 5, true, sized), "an override by a number")
	// What is not named in dimensions makes no count of its own.
	assert.Equal(t, exhausted, q.ask(t, newCall(), "q-memory", 1, true, request("/other", "x-user", "alice")))
	assert.Equal(t, granted(1), q.ask(t, newCall(), "Q-Memory", 1, true, request("/any", "x-user", "case")), "Mixer does not tell cases of a quota's name apart")

	t.Run("repeats", func(t *testing.T) {
		attributes := request("/any", "x-user", "repeated")
		id := newCall()
		assert.Equal(t, granted(6), q.ask(t, id, "q-memory", 6, true, attributes))
		assert.Equal(t, granted(6), q.ask(t, id, "q-memory", 6, true, attributes))
		assert.Equal(t, granted(4), q.atMost(t, "q-memory", "repeated", 10))
		// A caller without ids repeats nothing: Mixer sends the quota's name for an id.
		attributes = request("/any", "x-user", "without an id")
		for _, want := range []int64{6, 4, 0} {
			assert.Equal(t, want, q.ask(t, "", "q-memory", 6, true, attributes).Granted)
		}
	})
	t.Run("bucket", func(t *testing.T) {
		assert.Equal(t, granted(8), q.all(t, "q-bucket", "alice", 8))
		assert.EqualValues(t, 0, q.all(t, "q-bucket", "alice", 3).Granted)
		assert.Equal(t, granted(2), q.atMost(t, "q-bucket", "alice", 3))
		assert.Equal(t, refusedQuota, q.atMost(t, "q-bucket", "alice", 1))
	})
	t.Run("window", func(t *testing.T) {
		first := q.all(t, "q-short", "", 5)
		assert.EqualValues(t, 5, first.Granted)
		assert.LessOrEqual(t, first.ValidFor, time.Second, "no longer than the window")
		assert.Positive(t, first.ValidFor)
		require.Eventually(t, func() bool { return q.all(t, "q-short", "", 5).Granted == 5 }, patience, 10*time.Millisecond, "the next window")
	})
	t.Run("failures", func(t *testing.T) {
		assert.Equal(t, refusedQuota, q.all(t, "q-checks", "", 7))
		assert.Equal(t, openedQuota, q.all(t, "q-checks-open", "", 7))
		v := s.expect(t, refused, "/quota-checked")
		assert.Contains(t, v.Message, "(configuration)")
		waitForLog(t, s.tollgate, "no quota is configured, so nothing could be refused: add quotas")
	})
	t.Run("mixc", func(t *testing.T) {
		attributes := request("/any", "x-user", "mixc")
		args, err := mesh.MixcArgs(attributes)
		require.NoError(t, err)
		for _, want := range []mesh.QuotaVerdict{granted(7), granted(3), exhausted} {
			printed, err := s.mixer.Mixc(t.Context(), append(args, "-q", "q-memory=7")...)
			require.NoError(t, err)
			require.False(t, printed.Failed, printed.Output)
			assert.Equal(t, map[string]mesh.QuotaVerdict{"q-memory": want}, printed.Quotas, printed.Output)
		}
	})
	// What docs/quota.md warns of.
	t.Run("traps", func(t *testing.T) {
		asked := mesh.QuotaVerdict{Granted: 7, ValidFor: time.Minute}
		assert.Equal(t, asked, q.all(t, "q-of-nobody", "", 7), "a quota that there is not")
		assert.EqualValues(t, 1, q.all(t, "q-two", "", 1).Granted)
		s.inOrder(func() {
			assert.Equal(t, refusedQuota, q.all(t, "q-two", "", 1), "a denial that comes first stands, which 0 for 0s would not")
		})
		rules := func(path string) mesh.QuotaVerdict { return q.ask(t, newCall(), "q-rules", 7, true, request(path)) }
		assert.Equal(t, asked, rules("/quota-rules-not"), "no rule matches")
		assert.Equal(t, asked, rules("/quota-rules"), "a rule matches, and another does not")
	})
}

// redisHandlers are handlers that count in the store main, one for each mode, with an instance and a rule each.
func redisHandlers(t *testing.T, address string) string {
	t.Helper()
	var all []resource
	for _, mode := range []string{"CLOSED", "OPEN"} {
		name := "quota-redis-" + strings.ToLower(mode)
		all = append(all,
			newHandler(name, address, "30s", map[string]any{
				"name": name,
				"quotas": []any{
					map[string]any{"instance": "q-redis-" + strings.ToLower(mode), "dimensions": []string{"user"}, "amount": 100, "window": "1h", "store": "main"},
				},
				"failure": map[string]any{"dependency_down": mode},
			}),
			newResource("instance", "q-redis-"+strings.ToLower(mode), map[string]any{
				"template": "quota", "params": map[string]any{"dimensions": map[string]any{"user": `request.headers["x-user"] | "unknown"`}},
			}),
			newResource("rule", name, map[string]any{
				"actions": []any{map[string]any{"handler": name, "instances": []string{"q-redis-" + strings.ToLower(mode)}}},
			}))
	}
	return printResources(t, all...)
}

// testQuotaInRedis lets two replicas, each behind a Mixer of its own, share a Redis that comes late, hangs, is killed and comes back.
func testQuotaInRedis(t *testing.T, s *suite) {
	redis := meshtest.Redis(t)
	redis.Kill()
	// Long enough for a busy machine to ask a Redis that is there.
	settings := fmt.Sprintf("evaluation_timeout: 10s\nredis: {main: {addresses: [%q], timeout: 3s}}", redis.Addr)
	var replicas []asker
	for range 2 {
		tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Args: []string{"--log-level", "debug"}, Settings: settings})
		mixer := meshtest.Mixer(t, s.mixer.Version, mesh.MixerOptions{Resources: map[string]string{
			"tollgate": bundle(t), "handlers": redisHandlers(t, tollgate.Addr),
		}})
		replicas = append(replicas, asker{s, mixer})
	}
	q := replicas[0]
	away := func() {
		t.Helper()
		var all sync.WaitGroup
		for _, q := range replicas {
			all.Go(func() { assert.Equal(t, refusedQuota, q.all(t, "q-redis-closed", "away", 7)) })
			all.Go(func() { assert.Equal(t, openedQuota, q.all(t, "q-redis-open", "away", 7)) })
		}
		all.Wait()
	}
	back := func() {
		t.Helper()
		for _, q := range replicas {
			require.Eventually(t, func() bool { return q.all(t, "q-redis-closed", newCall(), 7).Granted == 7 }, patience, 10*time.Millisecond, "Redis is not used again")
		}
	}
	away() // from the start, which did not fail for it
	require.NoError(t, redis.Start(t.Context()))
	back()

	assert.EqualValues(t, 60, replicas[0].all(t, "q-redis-closed", "alice", 60).Granted)
	assert.EqualValues(t, 0, replicas[1].all(t, "q-redis-closed", "alice", 60).Granted)
	assert.EqualValues(t, 40, replicas[1].atMost(t, "q-redis-closed", "alice", 60).Granted)
	id := newCall()
	attributes := request("/any", "x-user", "repeated")
	for _, q := range []asker{replicas[0], replicas[1], replicas[0]} {
		assert.EqualValues(t, 70, q.ask(t, id, "q-redis-closed", 70, true, attributes).Granted, "a repeat that another replica gets")
	}
	assert.EqualValues(t, 30, q.atMost(t, "q-redis-closed", "repeated", 70).Granted)

	// Together they never grant more than the limit, while Redis hangs now and then.
	var total, opened atomic.Int64
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			q := replicas[i%2]
			for range 25 {
				got := q.atMost(t, "q-redis-closed", "crowd", 3)
				total.Add(got.Granted)
				if got.Granted > 0 && got.ValidFor <= 0 {
					opened.Add(1)
				}
			}
		})
	}
	require.NoError(t, redis.Pause())
	away()
	require.NoError(t, redis.Resume())
	group.Wait()
	assert.Zero(t, opened.Load())
	assert.LessOrEqual(t, total.Load(), int64(100))
	back()
	total.Add(q.atMost(t, "q-redis-closed", "crowd", 1000).Granted)
	// A call that was counted and whose answer came too late is lost to its caller, never to the limit.
	assert.LessOrEqual(t, total.Load(), int64(100))

	// Killed while calls are under way.
	require.NoError(t, redis.Pause())
	underWay := make(chan mesh.QuotaVerdict, 1)
	go func() { underWay <- q.all(t, "q-redis-closed", "killed", 7) }()
	redis.Kill()
	assert.Equal(t, refusedQuota, <-underWay)
	away()
	require.NoError(t, redis.Start(t.Context()))
	back()
}

// testQuotaExample applies the example as it is documented.
func testQuotaExample(t *testing.T, s *suite) {
	redis := meshtest.Redis(t)
	settings := strings.ReplaceAll(readFile(t, root, "operatorconfig/examples/quota.settings.yaml"), "redis.istio-system.svc.cluster.local:6379", redis.Addr)
	// A busy machine may need more than the documented time to ask a Redis beside it.
	settings = strings.ReplaceAll(settings, "timeout: 100ms", "timeout: 5s")
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Settings: settings, Args: []string{"--log-level", "debug"}})
	text := strings.ReplaceAll(readFile(t, root, "operatorconfig/examples/quota.yaml"), exampleAddress, tollgate.Addr)
	text = strings.ReplaceAll(text, "timeout: 500ms", "timeout: 10s")
	t.Cleanup(func() { assert.NoError(t, s.mixer.Delete("example-quota")) })
	meshtest.Apply(t, s.mixer, "example-quota", text)

	q := asker{s, s.mixer}
	take := func(client, service string, amount int64) int64 {
		t.Helper()
		attributes := request("/productpage", "x-client", client).With(mesh.Attributes{"destination.service.host": service})
		return q.ask(t, newCall(), "requests", amount, true, attributes).Granted
	}
	for _, c := range []struct {
		client, service string
		amount, want    int64
	}{
		{"web", "productpage", 599, 599},
		{"web", "productpage", 10, 1},
		{"web", "productpage", 10, 0},
		{"web", "reviews", 10, 10},
		{"crm", "productpage", 7000, 6000},
		{"trial", "reviews", 31, 30},
		{"trial", "reviews", 1, 0},
	} {
		assert.Equal(t, c.want, take(c.client, c.service, c.amount), "%v", c)
	}
	// The kinds that the proxies read are there in this release.
	binaries, err := mesh.FindBinaries()
	require.NoError(t, err)
	for _, path := range []string{"manifests/charts/base/crds/crd-all.gen.yaml", "manifests/base/files/crd-all.gen.yaml"} {
		content, err := binaries.IstioFile(t.Context(), s.mixer.Version, path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		for _, kind := range []string{"quotaspecs", "quotaspecbindings"} {
			assert.Contains(t, string(content), "  name: "+kind+".config.istio.io\n", filepath.Base(path))
		}
		return
	}
	t.Error("no definitions of Istio's kinds were found")
}
