package settings

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"
)

// Redis is a store of counts that replicas share. Zero numbers and durations take the defaults.
type Redis struct {
	// Addresses are host:port: one, or some of a cluster's nodes.
	Addresses []string `yaml:"addresses"`
	// Cluster is whether it is a cluster.
	Cluster bool `yaml:"cluster"`
	// Database is the number of a database.
	Database int `yaml:"database"`
	// Username is whose password it is; empty for the default user.
	Username string `yaml:"username"`
	// Password is sent on each connection.
	Password ClientCredential `yaml:"password"`
	// TLS secures the connections.
	TLS ClientTLS `yaml:"tls"`
	// Timeout bounds a call, and with it how long a quota call waits for a Redis that does not answer.
	Timeout time.Duration `yaml:"timeout"`
	// Connections is how many there may be at once.
	Connections int `yaml:"connections"`
}

// WithDefaults returns the settings with the defaults in place of what is not set.
func (r Redis) WithDefaults() Redis {
	setDefault(&r.Timeout, 100*time.Millisecond)
	setDefault(&r.Connections, 64)
	return r
}

func validateRedis(stores map[string]Redis) (problems []error) {
	for _, name := range slices.Sorted(maps.Keys(stores)) {
		if !simpleName.MatchString(name) {
			problems = append(problems, fmt.Errorf("redis has %q; name a store with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends", name))
		}
		for _, problem := range stores[name].WithDefaults().validate() {
			problems = append(problems, fmt.Errorf("redis.%s.%w", name, problem))
		}
	}
	return problems
}

func (r Redis) validate() (problems []error) {
	add := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	add(len(r.Addresses) == 0, "addresses is missing; name one as host:port")
	add(len(r.Addresses) > 1 && !r.Cluster, "addresses has %d; keep one, or set cluster to true if they are nodes of a cluster", len(r.Addresses))
	for i, address := range r.Addresses {
		host, port, err := net.SplitHostPort(address)
		n, portErr := strconv.ParseUint(port, 10, 16)
		add(err != nil || host == "" || portErr != nil || n == 0, "addresses[%d] is %q; write host:port", i, address)
	}
	add(r.Cluster && r.Database != 0, "database is %d; a cluster has none but 0", r.Database)
	add(r.Username != "" && r.Password.File == "", "username is %q without a password.file; name the file that has the password", r.Username)
	return append(problems, outOf([]bound{
		{"database", int64(r.Database), 0, 1 << 20, false},
		{"timeout", int64(r.Timeout), int64(time.Millisecond), int64(10 * time.Second), true},
		{"connections", int64(r.Connections), 1, 1 << 16, false},
	})...)
}
