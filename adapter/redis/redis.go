// Package redis keeps the counts of quotas in Redis, where replicas share them.
//
// Every call is one script, so that nothing comes between reading a count and writing it. Redis' own clock is the only one, so that
// replicas agree. All that is written expires.
package redis

import (
	"context"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/tollgate-mesh/tollgate/adapter/policy/quota"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
)

// Options say where a Redis is and how it is talked to.
type Options struct {
	// Addresses are host:port: one, or some of a cluster's.
	Addresses []string
	// Cluster is whether it is a cluster.
	Cluster bool
	// Database is a number; 0 in a cluster.
	Database int
	// Username and Password are who we are to it. The password is read anew for each connection; without one we are nobody.
	Username string
	Password client.Credential
	// TLS secures the connections.
	TLS client.TLS
	// Timeout bounds a call, with all that belongs to it.
	Timeout time.Duration
	// Connections is how many calls may be under way at once.
	Connections int
}

//go:embed window.lua
var windowScript string

//go:embed bucket.lua
var bucketScript string

// Store is a Redis. It is safe for concurrent use.
type Store struct {
	client         redis.UniversalClient
	timeout        time.Duration
	window, bucket *redis.Script
}

// Open returns the store without connecting to it: a Redis that is away is away for the calls that need it. The error is one of the
// TLS settings.
func Open(o Options) (*Store, error) {
	if err := o.TLS.Validate(); err != nil {
		return nil, err
	}
	// The library would write to standard error what its calls return anyway.
	redis.SetLogger(silent{})
	options := &redis.UniversalOptions{
		Addrs: o.Addresses, IsClusterMode: o.Cluster, DB: o.Database,
		Dialer: o.TLS.Dial,
		CredentialsProviderContext: func(context.Context) (string, string, error) {
			password, err := o.Password.Read()
			if err != nil {
				return "", "", fmt.Errorf("password: %w", err)
			}
			return o.Username, password, nil
		},
		// A call that failed may have been counted: to make it again would count it twice. In a cluster the library does all the same, where a
		// connection broke: there it bounds repeats together with redirects, which are needed.
		MaxRetries: -1, DialerRetries: 1,
		ContextTimeoutEnabled: true, DialTimeout: o.Timeout, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout, PoolTimeout: o.Timeout,
		PoolSize: o.Connections, MaxActiveConns: o.Connections, PipelinePoolSize: -1,
		ReadBufferSize: bufferSize, WriteBufferSize: bufferSize,
		DisableIdentity: true, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	return &Store{
		client: redis.NewUniversalClient(options), timeout: o.Timeout,
		window: redis.NewScript(windowScript), bucket: redis.NewScript(bucketScript),
	}, nil
}

// bufferSize holds a call or an answer with room to spare; a script goes out in several parts.
const bufferSize = 1 << 10

// Take takes from a count.
func (s *Store) Take(ctx context.Context, request quota.Take) (quota.Taken, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	// What is between the braces alone decides which node of a cluster has a key, so that one node has both.
	count := "tollgate:quota:{" + hex.EncodeToString(request.Key[:]) + "}"
	keys := []string{count, count + ":" + hex.EncodeToString(request.Repeat[:])}
	remember := quota.Remembered.Milliseconds()
	if request.Repeat == (quota.Key{}) {
		remember = 0
	}
	bestEffort := 0
	if request.BestEffort {
		bestEffort = 1
	}
	// More than there can be is too much, however much more: a script's numbers lose precision above 2^53.
	amount := min(request.Amount, request.Limit.Amount+1)
	script, args := s.window, []any{amount, bestEffort, request.Limit.Amount, request.Limit.Window.Microseconds(), remember}
	if request.Limit.Refill > 0 {
		script, args = s.bucket, append(args, request.Limit.Refill)
	}
	answer, err := script.Run(ctx, s.client, keys, args...).Int64Slice()
	if err != nil {
		return quota.Taken{}, withoutReply(err)
	}
	const fields = 2
	if len(answer) != fields || answer[0] < 0 || answer[0] > request.Amount {
		return quota.Taken{}, errors.New("the script's answer is none; something else writes to its keys")
	}
	return quota.Taken{Amount: answer[0], Rest: time.Duration(answer[1]) * time.Microsecond}, nil
}

// withoutReply takes out of the library's errors what they quote of a reply that is none: it may be anything, and errors are logged.
func withoutReply(err error) error {
	_, length := errors.AsType[*strconv.NumError](err)
	quotes := func(words string) bool { return strings.Contains(err.Error(), words) }
	if length || slices.ContainsFunc([]string{"redis: can't parse", "redis: can't read", "redis: invalid", "bigInt("}, quotes) {
		return errors.New("what answers is no Redis; check the address")
	}
	return err
}

// Close closes all connections.
func (s *Store) Close() error { return s.client.Close() }

// silent is a logger that says nothing.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
