package adapter

import (
	"errors"

	"github.com/tollgate-mesh/tollgate/adapter/policy/quota"
	"github.com/tollgate-mesh/tollgate/adapter/redis"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

// redisStores are those that the settings define.
type redisStores map[string]*redis.Store

// openRedis opens all stores. None is connected to before a quota needs it.
func openRedis(all map[string]settings.Redis) (redisStores, error) {
	stores := redisStores{}
	var problems []error
	for name, s := range all {
		s = s.WithDefaults()
		store, err := redis.Open(redis.Options{
			Addresses: s.Addresses, Cluster: s.Cluster, Database: s.Database, Username: s.Username, Password: client.Credential(s.Password),
			TLS: client.TLS(s.TLS), Timeout: s.Timeout, Connections: s.Connections,
		})
		if err != nil {
			problems = append(problems, withPath("redis."+name+".", err))
			continue
		}
		stores[name] = store
	}
	if len(problems) > 0 {
		return nil, errors.Join(append(problems, stores.Close())...)
	}
	return stores, nil
}

// stores returns them as quotas see them.
func (r redisStores) stores() map[string]quota.Store {
	stores := make(map[string]quota.Store, len(r))
	for name, store := range r {
		stores[name] = store
	}
	return stores
}

// Close closes all connections.
func (r redisStores) Close() error {
	var errs []error
	for _, store := range r {
		errs = append(errs, store.Close())
	}
	return errors.Join(errs...)
}
