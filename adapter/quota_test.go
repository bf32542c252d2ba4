package adapter

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

func TestServiceGrantsQuotas(t *testing.T) {
	s := start(t, func(s *settings.Settings) {
		// Nobody listens there, which fails no start.
		s.Redis = map[string]settings.Redis{"away": {Addresses: []string{"127.0.0.1:1"}}}
	})
	params := func(store string) []byte {
		return mixertest.Params(&configpb.Params{Name: "q", Quotas: []*configpb.Quota{{Amount: 10, Window: durationpb.New(time.Hour), Store: store}}})
	}
	take := func(params []byte, id string, amount int64, bestEffort bool) (int64, time.Duration) {
		t.Helper()
		result, err := mixertest.SendQuota(t.Context(), s.connection, mixertest.Quota(params, id, map[string]string{"user": "alice"}, amount, bestEffort))
		require.NoError(t, err)
		return result.GrantedAmount, result.ValidDuration
	}
	for i, want := range []int64{7, 3, 0} {
		granted, _ := take(params(""), string(rune('a'+i)), 7, true)
		assert.Equal(t, want, granted)
	}
	granted, _ := take(params(""), "a", 7, true)
	assert.EqualValues(t, 7, granted, "a repeat")
	for _, store := range []string{"away", "unknown"} {
		granted, valid := take(params(store), "", 1, false)
		assert.Zero(t, granted)
		assert.Equal(t, time.Millisecond, valid)
	}
	assert.Equal(t, config.Unavailable, s.ask(t, mixertest.NothingMethod, mixertest.Nothing(params(""))), "quotas are no checks")

	_, metrics := s.get(t, "/metrics")
	assert.Contains(t, metrics, "tollgate_quota_counts 1\n")
	assert.Contains(t, metrics, `tollgate_quota_amount_total{handler="q",result="granted"} 17`+"\n")
	assert.Contains(t, metrics, `tollgate_decisions_total{class="dependency_down",handler="q",outcome="failed_closed"} 1`+"\n")
}

func TestRedisSettingsThatCannotBe(t *testing.T) {
	s := settings.Default()
	s.Listen, s.Admin = "127.0.0.1:0", ""
	s.Redis = map[string]settings.Redis{"main": {Addresses: []string{"127.0.0.1:1"}, TLS: settings.ClientTLS{CA: "/ca", Key: "/key"}}}
	require.NoError(t, s.Validate())
	_, err := New(context.Background(), s, "test", slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, `redis.main.tls.ca is "/ca" but tls.enabled is false`)
	require.ErrorContains(t, err, `redis.main.tls.key is "/key"`)
}
