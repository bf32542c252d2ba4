package redis_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/policy/quota"
	"github.com/tollgate-mesh/tollgate/adapter/redis"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/client"
	"github.com/tollgate-mesh/tollgate/adapter/transport/testca"
	"github.com/tollgate-mesh/tollgate/config"
)

// The library looks for a Redis that is away once a second, and finds only then that it was closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// patience is for what a busy machine does in its own time.
const patience = 2 * time.Minute

// server is a real Redis, which keeps nothing on a disk.
type server struct {
	program string
	args    []string
	address string
	admin   *goredis.Options
	process *exec.Cmd
}

// program returns the real Redis, or skips the test.
func program(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("redis-server"); err == nil {
		return path
	}
	path, err := filepath.Abs("../../bin/redis/redis-server")
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is missing; hack/redis.sh gets it")
		}
		t.Skip("redis-server is missing; hack/redis.sh gets it")
	}
	return path
}

// freeAddress returns an address below the ports that Linux gives to outgoing connections, so that no client takes it while the server
// is down. A cluster's node listens 10 000 ports above as well, where nobody is either.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(10_000))
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// serve starts a Redis. With TLS its arguments name its port.
func serve(t *testing.T, admin *goredis.Options, args ...string) *server {
	t.Helper()
	s := &server{program: program(t), address: freeAddress(t), admin: admin}
	if s.admin == nil {
		s.admin = &goredis.Options{}
	}
	s.admin.Addr = s.address
	// The library's own are seconds, which a busy machine may need, and then it asks again what may be asked only once.
	s.admin.DialTimeout, s.admin.ReadTimeout, s.admin.WriteTimeout = patience, patience, patience
	_, port, err := net.SplitHostPort(s.address)
	require.NoError(t, err)
	s.args = append([]string{"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir()}, args...)
	if s.admin.TLSConfig != nil {
		s.args = append(s.args, "--port", "0", "--tls-port", port)
	} else {
		s.args = append(s.args, "--port", port)
	}
	t.Cleanup(s.kill)
	s.start(t)
	return s
}

func (s *server) start(t *testing.T) {
	t.Helper()
	s.process = exec.Command(s.program, s.args...)
	output := &strings.Builder{}
	s.process.Stdout, s.process.Stderr = output, output
	require.NoError(t, s.process.Start())
	require.Eventually(t, func() bool { return s.ping(t) == nil }, patience, 10*time.Millisecond)
}

func (s *server) ping(t *testing.T) error {
	t.Helper()
	c := goredis.NewClient(s.admin)
	defer func() { _ = c.Close() }()
	return c.Ping(t.Context()).Err()
}

// do asks it as its administrator.
func (s *server) do(t *testing.T, args ...any) any {
	t.Helper()
	c := goredis.NewClient(s.admin)
	defer func() { _ = c.Close() }()
	answer, err := c.Do(t.Context(), args...).Result()
	require.NoError(t, err, "%v", args)
	return answer
}

func (s *server) kill() {
	if s.process != nil && s.process.ProcessState == nil {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
	}
}

func (s *server) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	require.NoError(t, s.process.Process.Signal(signal))
}

// open connects to it. The timeout is long enough for a busy machine.
func (s *server) open(t *testing.T, change func(o *redis.Options)) *redis.Store {
	t.Helper()
	options := redis.Options{Addresses: []string{s.address}, Timeout: 10 * time.Second, Connections: 8}
	if change != nil {
		change(&options)
	}
	store, err := redis.Open(options)
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func numbered(n int) (k quota.Key) {
	binary.BigEndian.PutUint64(k[:], uint64(n)+1)
	return k
}

func fixedWindow(amount int64, window time.Duration) config.QuotaLimit {
	return config.QuotaLimit{Amount: amount, Window: window}
}

func tokenBucket(amount, refill int64, window time.Duration) config.QuotaLimit {
	return config.QuotaLimit{Amount: amount, Window: window, Refill: refill}
}

func take(t *testing.T, store *redis.Store, request quota.Take) quota.Taken {
	t.Helper()
	taken, err := store.Take(t.Context(), request)
	require.NoError(t, err)
	return taken
}

func TestLimits(t *testing.T) {
	s := serve(t, nil)
	store := s.open(t, nil)
	for i, limit := range []config.QuotaLimit{fixedWindow(10, time.Hour), tokenBucket(10, 1, time.Hour)} {
		amount := func(amount int64, bestEffort bool) int64 {
			t.Helper()
			return take(t, store, quota.Take{Key: numbered(i), Amount: amount, BestEffort: bestEffort, Limit: limit}).Amount
		}
		assert.EqualValues(t, 0, amount(11, false), "all or nothing")
		assert.EqualValues(t, 4, amount(4, false))
		assert.EqualValues(t, 0, amount(7, false))
		assert.EqualValues(t, 6, amount(math.MaxInt64, true), "what is there")
		assert.EqualValues(t, 0, amount(1, true))
		assert.EqualValues(t, 0, amount(1, false))
	}
	first := take(t, store, quota.Take{Key: numbered(100), Amount: 1, Limit: fixedWindow(10, time.Hour)})
	second := take(t, store, quota.Take{Key: numbered(100), Amount: 1, Limit: fixedWindow(10, time.Hour)})
	assert.Equal(t, time.Hour, first.Rest)
	assert.Less(t, second.Rest, time.Hour)
	assert.Greater(t, second.Rest, time.Hour-patience)
	assert.Zero(t, take(t, store, quota.Take{Key: numbered(101), Amount: 1, Limit: tokenBucket(10, 1, time.Hour)}).Rest)
	// The largest numbers there are come through whole.
	for i, limit := range []config.QuotaLimit{fixedWindow(config.MaxQuotaAmount, config.MaxQuotaWindow), tokenBucket(config.MaxQuotaAmount, config.MaxQuotaAmount, config.MaxQuotaWindow)} {
		request := quota.Take{Key: numbered(200 + i), Amount: config.MaxQuotaAmount - 3, BestEffort: true, Limit: limit}
		assert.EqualValues(t, config.MaxQuotaAmount-3, take(t, store, request).Amount)
		request.Amount = 2
		assert.EqualValues(t, 2, take(t, store, request).Amount)
	}
}

// What was taken comes back, and what is kept expires: time is Redis' own, so the keys are made to look older.
func TestTimePasses(t *testing.T) {
	s := serve(t, nil)
	store := s.open(t, nil)
	age := func(field string, by time.Duration) {
		t.Helper()
		keys, _ := s.do(t, "KEYS", "*").([]any)
		require.Len(t, keys, 1)
		then, _ := s.do(t, "HGET", keys[0], field).(string)
		var micros int64
		_, err := fmt.Sscan(then, &micros)
		require.NoError(t, err, then)
		s.do(t, "HSET", keys[0], field, micros-by.Microseconds())
	}
	request := quota.Take{Amount: 100, BestEffort: true, Limit: fixedWindow(10, time.Hour)}
	assert.EqualValues(t, 10, take(t, store, request).Amount)
	age("start", 59*time.Minute)
	assert.EqualValues(t, 0, take(t, store, request).Amount)
	age("start", time.Minute)
	assert.EqualValues(t, 10, take(t, store, request).Amount)
	// The clock is set back: the window goes on from now, and gives nothing back.
	age("start", -24*time.Hour)
	taken := take(t, store, request)
	assert.EqualValues(t, 0, taken.Amount)
	assert.Equal(t, time.Hour, taken.Rest)
	age("start", 59*time.Minute)
	assert.EqualValues(t, 0, take(t, store, request).Amount)
	age("start", time.Minute)
	assert.EqualValues(t, 10, take(t, store, request).Amount, "it ends an hour after the clock was set back, however often nothing was taken")

	s.do(t, "FLUSHALL")
	request.Limit = tokenBucket(10, 6, time.Hour)
	assert.EqualValues(t, 10, take(t, store, request).Amount)
	age("at", 19*time.Minute)
	assert.EqualValues(t, 1, take(t, store, request).Amount)
	age("at", time.Minute)
	assert.EqualValues(t, 1, take(t, store, request).Amount, "halves add up")
	age("at", -24*time.Hour)
	assert.EqualValues(t, 0, take(t, store, request).Amount)
	age("at", 10*time.Minute)
	assert.EqualValues(t, 1, take(t, store, request).Amount, "what comes back, comes back from then on")
	age("at", 30*time.Minute)
	request.Amount = 1
	assert.EqualValues(t, 1, take(t, store, request).Amount)
	age("at", -24*time.Hour)
	request.Amount = 100
	assert.EqualValues(t, 2, take(t, store, request).Amount, "what is there stays there")
	age("at", 100*time.Hour)
	assert.EqualValues(t, 10, take(t, store, request).Amount, "no more than a bucket")
}

func TestEverythingExpires(t *testing.T) {
	s := serve(t, nil)
	store := s.open(t, nil)
	for i, limit := range []config.QuotaLimit{fixedWindow(10, time.Minute), tokenBucket(10, 1, time.Minute)} {
		s.do(t, "FLUSHALL")
		take(t, store, quota.Take{Key: numbered(i), Repeat: numbered(50), Amount: 2, Limit: limit})
		keys, _ := s.do(t, "KEYS", "*").([]any)
		require.Len(t, keys, 2)
		for _, key := range keys {
			name, _ := key.(string)
			ttl, _ := s.do(t, "PTTL", name).(int64)
			want := []time.Duration{time.Minute, 2 * time.Minute}[i]
			if strings.Contains(name, "}:") {
				want = quota.Remembered
			}
			assert.Positive(t, ttl, name)
			assert.LessOrEqual(t, ttl, want.Milliseconds()+1, name)
		}
	}
	// Who gets nothing leaves nothing.
	s.do(t, "FLUSHALL")
	take(t, store, quota.Take{Key: numbered(1), Repeat: numbered(50), Amount: 11, Limit: fixedWindow(10, time.Minute)})
	assert.Empty(t, s.do(t, "KEYS", "*"))
}

// A window and a bucket that really end, by Redis' clock.
func TestShortWindowsEnd(t *testing.T) {
	store := serve(t, nil).open(t, nil)
	for i, limit := range []config.QuotaLimit{fixedWindow(10, 100*time.Millisecond), tokenBucket(10, 10, 100*time.Millisecond)} {
		request := quota.Take{Key: numbered(i), Amount: 10, Limit: limit}
		assert.EqualValues(t, 10, take(t, store, request).Amount)
		require.Eventually(t, func() bool { return take(t, store, request).Amount == 10 }, patience, time.Millisecond)
	}
}

func TestRepeatsTakeNothing(t *testing.T) {
	s := serve(t, nil)
	store := s.open(t, nil)
	for i, limit := range []config.QuotaLimit{fixedWindow(10, time.Hour), tokenBucket(10, 1, time.Hour)} {
		call := func(id int, amount int64) quota.Taken {
			return take(t, store, quota.Take{Key: numbered(i), Repeat: numbered(100*i + id), Amount: amount, BestEffort: true, Limit: limit})
		}
		assert.EqualValues(t, 8, call(1, 8).Amount)
		assert.EqualValues(t, 8, call(1, 8).Amount)
		assert.EqualValues(t, 2, call(2, 8).Amount)
		assert.EqualValues(t, 2, call(2, 8).Amount)
		assert.EqualValues(t, 0, call(3, 8).Amount)
		assert.EqualValues(t, 8, call(1, 8).Amount)
	}
}

// Many stores, as of many replicas, take from one count.
func TestReplicasShareTheLimit(t *testing.T) {
	s := serve(t, nil)
	const replicas, limit = 4, 1000
	for i, l := range []config.QuotaLimit{fixedWindow(limit, time.Hour), tokenBucket(limit, 1, time.Hour)} {
		var total atomic.Int64
		var group sync.WaitGroup
		for range replicas {
			store := s.open(t, nil)
			for range 4 {
				group.Go(func() {
					for range 50 {
						taken, err := store.Take(t.Context(), quota.Take{Key: numbered(i), Amount: 3, BestEffort: true, Limit: l})
						if assert.NoError(t, err) {
							total.Add(taken.Amount)
						}
					}
				})
			}
		}
		group.Wait()
		assert.EqualValues(t, limit, total.Load())
	}
}

func TestAway(t *testing.T) {
	s := serve(t, nil)
	// More than enough: a call may be counted although its answer comes too late.
	request := quota.Take{Amount: 1, Limit: fixedWindow(1_000_000, time.Hour)}
	// Away from the start, and there later.
	s.kill()
	store := s.open(t, func(o *redis.Options) { o.Timeout = 3 * time.Second })
	_, err := store.Take(t.Context(), request)
	require.ErrorContains(t, err, "connection refused")
	s.start(t)
	back := func() bool { taken, err := store.Take(t.Context(), request); return err == nil && taken.Amount == 1 }
	require.Eventually(t, back, patience, 10*time.Millisecond)

	// It hangs: a call takes its timeout and no longer than the caller's.
	s.signal(t, syscall.SIGSTOP)
	_, err = store.Take(t.Context(), request)
	require.Error(t, err)
	require.ErrorContains(t, err, "timeout")
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = store.Take(short, request)
	require.Error(t, err)
	s.signal(t, syscall.SIGCONT)
	require.Eventually(t, back, patience, 10*time.Millisecond)

	// It is killed while a call is under way, and comes back without its scripts.
	s.signal(t, syscall.SIGSTOP)
	failed := make(chan error, 1)
	patient := s.open(t, func(o *redis.Options) { o.Timeout = patience })
	go func() {
		_, err := patient.Take(context.WithoutCancel(t.Context()), request)
		failed <- err
	}()
	s.kill()
	require.Error(t, <-failed)
	s.start(t)
	require.Eventually(t, back, patience, 10*time.Millisecond)
	s.do(t, "SCRIPT", "FLUSH")
	taken, err := patient.Take(t.Context(), request)
	require.NoError(t, err, "a script that is gone is sent again")
	assert.EqualValues(t, 1, taken.Amount)
}

// What answers may be anything, and is not for the log. This one is a fake.
func TestWhatIsNoRedis(t *testing.T) {
	for _, reply := range []string{"\x00\xff planted", "$planted", "*planted", "%planted", ":planted", "(planted", "_planted", "#planted", "=3\r\nplanted", ">planted"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var serving sync.WaitGroup
		serving.Go(func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = connection.Read(make([]byte, 1024))
				_, _ = io.WriteString(connection, strings.Repeat(reply+"\r\n", 8))
				connection.Close()
			}
		})
		store, err := redis.Open(redis.Options{Addresses: []string{listener.Addr().String()}, Timeout: patience})
		require.NoError(t, err)
		_, err = store.Take(t.Context(), quota.Take{Amount: 1, Limit: fixedWindow(10, time.Hour)})
		require.Error(t, err, reply)
		assert.NotContains(t, err.Error(), "planted", reply)
		require.NoError(t, store.Close())
		listener.Close()
		serving.Wait()
	}
}

// A cluster wants all keys of a script on one node.
func TestCluster(t *testing.T) {
	s := serve(t, nil, "--cluster-enabled", "yes")
	s.do(t, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
	require.Eventually(t, func() bool {
		info, _ := s.do(t, "CLUSTER", "INFO").(string)
		return strings.Contains(info, "cluster_state:ok")
	}, patience, 10*time.Millisecond)
	store := s.open(t, func(o *redis.Options) { o.Cluster = true })
	for i, limit := range []config.QuotaLimit{fixedWindow(10, time.Hour), tokenBucket(10, 1, time.Hour)} {
		for repeat := range 5 {
			request := quota.Take{Key: numbered(i), Repeat: numbered(100*i + repeat), Amount: 3, BestEffort: true, Limit: limit}
			want := []int64{3, 3, 3, 1, 0}[repeat]
			assert.Equal(t, want, take(t, store, request).Amount)
			assert.Equal(t, want, take(t, store, request).Amount)
		}
	}
}

// docs/quota.md says which rights a user needs.
func TestUserWithFewRights(t *testing.T) {
	page, err := os.ReadFile("../../docs/quota.md")
	require.NoError(t, err)
	_, rights, ok := strings.Cut(string(page), "ACL SETUSER tollgate on '>PASSWORD' ")
	require.True(t, ok)
	rights, _, _ = strings.Cut(rights, "\n")
	s := serve(t, &goredis.Options{Password: "planted-admin"}, "--requirepass", "planted-admin")
	s.do(t, append([]any{"ACL", "SETUSER", "tollgate", "on", ">planted-password"}, fields(rights)...)...)

	file := filepath.Join(t.TempDir(), "password")
	store := s.open(t, func(o *redis.Options) { o.Username, o.Password = "tollgate", client.Credential{File: file} })
	call := func() error {
		for i, limit := range []config.QuotaLimit{fixedWindow(1000, time.Hour), tokenBucket(1000, 1, time.Hour)} {
			if _, err := store.Take(t.Context(), quota.Take{Key: numbered(i), Repeat: numbered(i), Amount: 1, Limit: limit}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, content := range []string{"", "planted-wrong"} {
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		err := call()
		require.Error(t, err, content)
		assert.NotContains(t, err.Error(), "planted")
	}
	require.NoError(t, os.WriteFile(file, []byte("planted-password\n"), 0o600))
	require.Eventually(t, func() bool { return call() == nil }, patience, 10*time.Millisecond, "the password is read anew for each connection")
}

// The server's certificate must be ours and made out to the address, and it asks for one of ours.
func TestTLS(t *testing.T) {
	directory := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(directory, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	authority := func(name string) (*testca.Authority, string) {
		ca, err := testca.New()
		require.NoError(t, err)
		pair, err := ca.Pair()
		require.NoError(t, err)
		return ca, write(name, pair.Cert)
	}
	issue := func(ca *testca.Authority, name string, names ...string) (cert, key string, pair testca.Pair) {
		pair, err := ca.Issue(testca.Leaf{Names: names, NotAfter: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		return write(name+".crt", pair.Cert), write(name+".key", pair.Key), pair
	}
	ours, caFile := authority("ca.crt")
	_, otherCA := authority("other.crt")
	cert, key, _ := issue(ours, "server", "127.0.0.1", "redis.example.com")
	ourCert, ourKey, pair := issue(ours, "client", "tollgate")
	certificate, err := tls.X509KeyPair(pair.Cert, pair.Key)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	content, err := os.ReadFile(caFile)
	require.NoError(t, err)
	require.True(t, pool.AppendCertsFromPEM(content))
	s := serve(t, &goredis.Options{TLSConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate}}},
		"--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", caFile, "--tls-auth-clients", "yes")

	for name, c := range map[string]struct {
		security client.TLS
		problem  string
	}{
		"ours":                    {client.TLS{Enabled: true, CA: caFile, Cert: ourCert, Key: ourKey}, ""},
		"by another of its names": {client.TLS{Enabled: true, CA: caFile, Cert: ourCert, Key: ourKey, ServerName: "redis.example.com"}, ""},
		"another name":            {client.TLS{Enabled: true, CA: caFile, Cert: ourCert, Key: ourKey, ServerName: "other.example.com"}, "not other.example.com"},
		"another authority":       {client.TLS{Enabled: true, CA: otherCA, Cert: ourCert, Key: ourKey}, "certificate signed by unknown authority"},
		"the system's":            {client.TLS{Enabled: true, Cert: ourCert, Key: ourKey}, "certificate signed by unknown authority"},
		// Where the connection is reset first, that is all there is to read.
		"no certificate of ours": {client.TLS{Enabled: true, CA: caFile}, "certificate required|connection reset|broken pipe"},
		"no file":                {client.TLS{Enabled: true, CA: caFile + ".not", Cert: ourCert, Key: ourKey}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			store := s.open(t, func(o *redis.Options) { o.TLS = c.security })
			taken, err := store.Take(t.Context(), quota.Take{Amount: 1, Limit: fixedWindow(1000, time.Hour)})
			if c.problem == "" {
				require.NoError(t, err)
				assert.EqualValues(t, 1, taken.Amount)
				return
			}
			require.Error(t, err)
			assert.Regexp(t, c.problem, err.Error())
		})
	}
	plain := s.open(t, nil)
	_, err = plain.Take(t.Context(), quota.Take{Amount: 1, Limit: fixedWindow(1000, time.Hour)})
	require.Error(t, err)
}

func fields(text string) (all []any) {
	for field := range strings.FieldsSeq(text) {
		all = append(all, field)
	}
	return all
}

func TestOpen(t *testing.T) {
	_, err := redis.Open(redis.Options{Addresses: []string{"127.0.0.1:1"}, TLS: client.TLS{CA: "/ca"}})
	require.ErrorContains(t, err, "tls.ca")
	// Nothing is connected to, and nothing is left behind.
	store, err := redis.Open(redis.Options{Addresses: []string{"127.0.0.1:1"}, Timeout: time.Second, Connections: 1})
	require.NoError(t, err)
	_, err = store.Take(t.Context(), quota.Take{Amount: 1, Limit: fixedWindow(1, time.Second)})
	require.Error(t, err)
	require.ErrorContains(t, err, "connection refused")
	require.NoError(t, store.Close())
}
