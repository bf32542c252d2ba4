package adapter

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/htpasswd"
	"github.com/tollgate-mesh/tollgate/adapter/keyset"
	"github.com/tollgate-mesh/tollgate/adapter/lists"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/policies"
	"github.com/tollgate-mesh/tollgate/adapter/policy/credential"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/adapter/secret"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config"
)

// stores are what the settings define and handlers name.
type stores struct {
	secrets     *secret.Store
	keySets     *keyset.Store
	lists       *lists.Store
	htpasswd    *htpasswd.Store
	policies    *policies.Store
	environment *rego.Environment
	redis       redisStores
}

// openStores opens all of them, and makes what they count metrics. What is in files is read; nothing is connected to.
func openStores(ctx context.Context, s settings.Settings, observer *observe.Observer, logger *slog.Logger) (opened stores, err error) {
	if opened.secrets, err = secret.Open(secret.Sources{Directory: s.Secrets.Directory, Files: s.Secrets.Files}, logger); err != nil {
		return stores{}, err
	}
	observer.CountSecrets(opened.secrets.Unavailable)
	warnOfCallers(s.Callers, opened.secrets, logger)
	opened.keySets = keyset.Open(ctx, keySetSources(s.KeySets), logger)
	observer.CountKeySets(opened.keySets.Stats)
	opened.lists = lists.Open(ctx, listSources(s.Lists), logger)
	observer.CountLists(opened.lists.Stats)
	opened.htpasswd = htpasswd.Open(ctx, htpasswdSources(s.Htpasswd), logger)
	observer.CountHtpasswd(opened.htpasswd.Stats)
	if opened.environment, opened.policies, err = openPolicies(s, observer, logger); err != nil { //nolint:contextcheck // preparing a policy ends by itself
		return stores{}, err
	}
	observer.CountPolicies(opened.policies.Stats)
	if opened.redis, err = openRedis(s.Redis); err != nil {
		return stores{}, err
	}
	return opened, nil
}

// warnOfCallers tells of callers whose secret the directory does not have: it may come later, or its name is mistyped.
func warnOfCallers(callers map[string]settings.Caller, secrets *secret.Store, logger *slog.Logger) {
	for _, name := range slices.Sorted(maps.Keys(callers)) {
		if wanted := callers[name].Secret(); wanted != "" && !slices.Contains(secrets.Names(), wanted) {
			logger.Warn("a caller's secret has no file; its calls are refused until there is one", "caller", name, "secret", wanted)
		}
	}
}

func keySetSources(sets map[string]settings.KeySet) map[string]keyset.Source {
	sources := make(map[string]keyset.Source, len(sets))
	for name, set := range sets {
		set = set.WithDefaults()
		sources[name] = keyset.Source{Symmetric: set.Symmetric, From: follow.Source{
			File: set.File, URL: set.URL, CA: set.CA, Refresh: set.Refresh, MinRefresh: set.MinRefresh, MaxStale: set.MaxStale, Timeout: set.Timeout,
		}}
	}
	return sources
}

func listSources(settings map[string]settings.List) map[string]lists.Source {
	sources := make(map[string]lists.Source, len(settings))
	for name, l := range settings {
		l = l.WithDefaults()
		entryType, _ := config.ParseEntryType(l.Type)
		sources[name] = lists.Source{Type: entryType, From: follow.Source{
			File: l.File, URL: l.URL, CA: l.CA, Refresh: l.Refresh, MaxStale: l.MaxStale, Timeout: l.Timeout,
		}}
	}
	return sources
}

func htpasswdSources(files map[string]settings.Htpasswd) map[string]follow.Source {
	const timeout = 10 * time.Second
	sources := make(map[string]follow.Source, len(files))
	for name, file := range files {
		file = file.WithDefaults()
		sources[name] = follow.Source{File: file.File, Refresh: file.MaxStale, MaxStale: file.MaxStale, Timeout: timeout}
	}
	return sources
}

// secrets lets checks see the store without knowing it.
type secrets struct{ store *secret.Store }

func (s secrets) Secret(name string) (credential.Secret, bool) {
	found, ok := s.store.Secret(name)
	if !ok {
		return nil, false
	}
	return found, true
}

// jwtKeySets lets JWT checks see the store without knowing it.
type jwtKeySets struct{ store *keyset.Store }

func (j jwtKeySets) KeySet(name string) (jwt.KeySet, bool) {
	s, ok := j.store.Set(name)
	if !ok {
		return nil, false
	}
	return s, true
}
