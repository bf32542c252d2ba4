package adapter

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	policyv1beta1 "istio.io/api/policy/v1beta1"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
	"github.com/tollgate-mesh/tollgate/template/apikey"
)

// ask makes a call of a check template that must have an answer.
func (s *service) ask(t *testing.T, method string, call []byte) config.Code {
	t.Helper()
	result, err := mixertest.SendCheck(t.Context(), s.connection, method, call)
	require.NoError(t, err)
	return config.Code(result.Status.Code)
}

func (s *service) become(t *testing.T, want config.Code, ask func() config.Code) {
	t.Helper()
	require.Eventually(t, func() bool { return ask() == want }, patience, 10*time.Millisecond, "never became %s", want)
}

func address(parts ...byte) *policyv1beta1.Value {
	return &policyv1beta1.Value{Value: &policyv1beta1.Value_IpAddressValue{IpAddressValue: &policyv1beta1.IPAddress{Value: parts}}}
}

func TestServiceFollowsLists(t *testing.T) {
	file := filepath.Join(t.TempDir(), "offices")
	require.NoError(t, os.WriteFile(file, []byte("10.0.0.0/8\n"), 0o600))
	var blocked atomic.Value
	blocked.Store("")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, blocked.Load()) }))
	defer server.Close()
	s := start(t, func(s *settings.Settings) {
		s.Lists = map[string]settings.List{
			"offices": {Type: "ip_addresses", File: file},
			"blocked": {Type: "ip_addresses", URL: server.URL, Refresh: time.Second},
		}
	})
	check := func(source string, listed configpb.ListCheck_Listed) []byte {
		return mixertest.Params(&configpb.Params{Name: source, Lists: []*configpb.ListCheck{{Source: source, Listed: listed}}})
	}
	offices := func(ip *policyv1beta1.Value) func() config.Code {
		return func() config.Code {
			return s.ask(t, mixertest.ListEntryMethod, mixertest.ListEntry(check("offices", configpb.ListCheck_ALLOWED), ip))
		}
	}
	outside := func(ip *policyv1beta1.Value) func() config.Code {
		return func() config.Code {
			return s.ask(t, mixertest.ListEntryMethod, mixertest.ListEntry(check("blocked", configpb.ListCheck_DENIED), ip))
		}
	}
	assert.Equal(t, config.OK, offices(address(10, 1, 2, 3))())
	assert.Equal(t, config.PermissionDenied, offices(address(11, 1, 2, 3))())
	require.NoError(t, os.WriteFile(file+".new", []byte("11.0.0.0/8\n"), 0o600))
	require.NoError(t, os.Rename(file+".new", file))
	s.become(t, config.OK, offices(address(11, 1, 2, 3)))
	assert.Equal(t, config.PermissionDenied, offices(address(10, 1, 2, 3))())

	// An empty list is none: what a broken server says must not let everybody pass.
	assert.Equal(t, config.Unavailable, outside(address(192, 0, 2, 1))())
	blocked.Store("192.0.2.0/24\n")
	s.become(t, config.PermissionDenied, outside(address(192, 0, 2, 1)))
	assert.Equal(t, config.OK, outside(address(198, 51, 100, 1))())
	blocked.Store("")
	s.become(t, config.PermissionDenied, outside(address(192, 0, 2, 1)))
	assert.Equal(t, config.Unavailable, s.ask(t, mixertest.ListEntryMethod, mixertest.ListEntry(check("other", configpb.ListCheck_DENIED), address(198, 51, 100, 1))))

	_, metrics := s.get(t, "/metrics")
	assert.Contains(t, metrics, `tollgate_list_entries{list="offices"} 1`+"\n")
	assert.Contains(t, metrics, `tollgate_list_reads_total{list="blocked",result="failed"}`)
}

func TestServiceFollowsAPIKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "partner-b")
	require.NoError(t, os.WriteFile(file, []byte("key-b\nkey-b2\n"), 0o600))
	s := start(t, func(s *settings.Settings) { s.Secrets.Files = map[string]string{"partner-b": file} })
	params := mixertest.Params(&configpb.Params{ApiKeys: []*configpb.ApiKeyCheck{{
		Keys:    []*configpb.ApiKey{{Identity: "partner-a", Sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}},
		Secrets: []string{"partner-b"},
	}}})
	presenting := func(key string) func() config.Code {
		return func() config.Code {
			return s.ask(t, mixertest.APIKeyMethod, mixertest.APIKey(params, &apikey.InstanceMsg{ApiKey: key}))
		}
	}
	for _, key := range []string{"abc", "key-b", "key-b2"} {
		assert.Equal(t, config.OK, presenting(key)(), key)
	}
	for _, key := range []string{"", "abd", "key-", "key-b\n", "partner-a"} {
		assert.Equal(t, config.PermissionDenied, presenting(key)(), key)
	}
	assert.Equal(t, config.PermissionDenied, s.ask(t, mixertest.NothingMethod, mixertest.Nothing(params)))
	require.NoError(t, os.WriteFile(file+".new", []byte("key-b2\n"), 0o600))
	require.NoError(t, os.Rename(file+".new", file))
	s.become(t, config.PermissionDenied, presenting("key-b"))
	assert.Equal(t, config.OK, presenting("key-b2")())
	require.NoError(t, os.Remove(file))
	s.become(t, config.Unavailable, presenting("key-b2"))
	assert.Equal(t, config.OK, presenting("abc")())
}
