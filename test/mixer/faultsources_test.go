package mixer_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// The user of password files.
const faultUser = "planted-user"

// faultUsers makes an htpasswd file of one user, with the least cost that there may be.
func faultUsers(t *testing.T, name string) string {
	t.Helper()
	const cost = 5
	hash, err := bcrypt.GenerateFromPassword([]byte(faultRight), cost)
	require.NoError(t, err)
	return name + ":" + string(hash) + "\n"
}

// otherScheme is the user with the right password, as `htpasswd -nbm` hashes it.
const otherScheme = faultUser + ":$apr1$planted0$8UKqDd1rqJyzbqGXGqZqJ/\n"

func basicCheck(id string) map[string]any {
	return map[string]any{"basic": []any{map[string]any{
		"subject_property": "custom_token_header", "users": id, "www_authenticate": map[string]any{"off": true},
	}}}
}

func sourcedCheck(id string) map[string]any {
	return map[string]any{"policy_source": id, "check_method": "data.faults.allow"}
}

// The modules of policy sources. What does not compile parses, since what does not parse cannot be signed.
const (
	faultPolicy = `package faults
default allow := false
allow if input.subject.properties.custom_token_header == "` + faultRight + `"
`
	denyingPolicy   = "package faults\nallow := false\n"
	otherPolicy     = "package faults\nplanted := true\n"
	notCompiling    = "package faults\nallow if missing_function(input)\n"
	notParsing      = "package faults\nallow if { planted"
	faultPolicyFile = "policy.rego"
)

// policyBytes is what a source's policies and data may have; one that is huge has more.
const policyBytes = 1 << 20

func hugeDocument() string {
	return fmt.Sprintf("{\"huge\": %q}", strings.Repeat("planted ", policyBytes/len("planted ")))
}

// breakDirectory makes the row's fault happen to a directory of policies.
func (b *faultBench) breakDirectory(t *testing.T, row *faultRow) {
	t.Helper()
	directory := b.path(row)
	policy := filepath.Join(directory, faultPolicyFile)
	switch row.Fault {
	case "not in the settings":
	case "away":
		require.NoError(t, os.RemoveAll(directory))
	case "emptied":
		require.NoError(t, os.Remove(policy))
	case "does not parse":
		replace(t, policy, notParsing)
	case "does not compile":
		replace(t, policy, notCompiling)
	case "has no such rule":
		replace(t, policy, otherPolicy)
	case "denies everybody":
		replace(t, policy, denyingPolicy)
	case "huge":
		replace(t, filepath.Join(directory, "huge.json"), hugeDocument())
	case "garbage":
		replace(t, filepath.Join(directory, "data.json"), garbage)
	case "one file more":
		replace(t, filepath.Join(directory, "more.rego"), "package more\nplanted := true\n")
	case "permission denied":
		makeUnreadable(t, policy, faultPolicy)
	default:
		require.Fail(t, "a fault that directories do not have", "%v", row)
	}
}

// makeUnreadable replaces a file by one that nobody may read.
func makeUnreadable(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", []byte(content), 0o600))
	require.NoError(t, os.Chmod(path+".new", 0))
	require.NoError(t, os.Rename(path+".new", path))
}

// faultBundles are the good bundle, by the empty name, and those of the faults that are bundles. The key verifies all but the ones that
// nobody signed, or somebody else.
func faultBundles(t *testing.T) (key bundleKey, bundles map[string]string) {
	t.Helper()
	key = newBundleKey(t)
	stranger := newBundleKey(t)
	made := func(revision, policy string, key *bundleKey) string {
		return string(buildBundle(t, map[string]string{
			".manifest": fmt.Sprintf(`{"revision": %q, "roots": ["faults"], "rego_version": 1}`, revision), "faults/" + faultPolicyFile: policy,
		}, key))
	}
	bundles = map[string]string{
		"":                         made("v2", faultPolicy, &key),
		"a newer one":              made("v3", faultPolicy+"# newer\n", &key),
		"an older one that denies": made("v1", denyingPolicy, &key),
		"unsigned":                 made("v3", denyingPolicy, nil),
		"signed by somebody else":  made("v3", denyingPolicy, &stranger),
		"has no such rule":         made("v3", otherPolicy, &key),
		"does not compile":         made("v3", notCompiling, &key),
		"huge": string(buildBundle(t, map[string]string{
			".manifest": `{"revision": "v3", "roots": ["faults"], "rego_version": 1}`, "faults/" + faultPolicyFile: denyingPolicy, "faults/data.json": hugeDocument(),
		}, &key)),
	}
	whole := bundles["an older one that denies"]
	bundles["damaged"] = whole[:len(whole)*2/3]
	return key, bundles
}

// policySettings are those of the row's source.
func (b *faultBench) policySettings(row *faultRow) map[string]any {
	settings := map[string]any{"max_bytes": policyBytes, "max_stale": row.leastStale("0s")}
	if !dependencies[row.Dependency].byURL {
		settings["directory"] = b.path(row)
		return settings
	}
	settings["bundle"] = map[string]any{
		"url": b.url(row), "min_refresh": "1s", "max_refresh": "1s", "timeout": "500ms",
		"keys": map[string]any{"default": map[string]any{"file": b.bundleKey, "algorithm": "ES256"}},
	}
	return settings
}

// Amounts that are asked of a quota: one that it has, and one that it never has.
const (
	faultLimit  = 1_000_000
	rightAmount = 7
	wrongAmount = faultLimit + 1
)

// startRedis starts the Redis of a row.
func (b *faultBench) startRedis(t *testing.T, row *faultRow) {
	t.Helper()
	if row.Fault == "answers garbage" {
		b.addresses[row.id] = garbageServer(t)
		return
	}
	redis := meshtest.Redis(t)
	b.redis[row.id], b.addresses[row.id] = redis, redis.Addr
}

// garbageServer is a fake: it answers whatever it is told with what is no answer.
func garbageServer(t *testing.T) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				read := make([]byte, 4096)
				for {
					if _, err := conn.Read(read); err != nil {
						return
					}
					if _, err := conn.Write([]byte(garbage + "\r\n")); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// breakRedis makes the row's fault happen to its Redis.
func (b *faultBench) breakRedis(t *testing.T, row *faultRow) {
	t.Helper()
	redis := b.redis[row.id]
	switch row.Fault {
	case "not in the settings", "password file away", "answers garbage":
	case "away":
		redis.Kill()
	case "hangs":
		require.NoError(t, redis.Pause())
	case "another password":
		require.NoError(t, redis.Do(t.Context(), "CONFIG SET requirepass planted-other", "CLIENT KILL TYPE normal"))
	case "no memory left":
		require.NoError(t, redis.Do(t.Context(), "CONFIG SET maxmemory 1"))
	case "takes no writes":
		require.NoError(t, redis.Do(t.Context(), "REPLICAOF 127.0.0.1 1"))
	case "started anew":
		redis.Kill()
		require.NoError(t, redis.Start(t.Context()))
	case "cuts connections":
		require.NoError(t, redis.Do(t.Context(), "CLIENT KILL TYPE normal"))
	case "forgets scripts":
		require.NoError(t, redis.Do(t.Context(), "SCRIPT FLUSH"))
	default:
		require.Fail(t, "a fault that a Redis does not have", "%v", row)
	}
}

// redisSettings are those of the row's Redis.
func (b *faultBench) redisSettings(row *faultRow) map[string]any {
	// Long enough for a busy machine; a Redis that hangs is not waited for as long by each of the questions.
	settings := map[string]any{"addresses": []string{b.addresses[row.id]}, "timeout": "5s"}
	if row.Fault == "hangs" {
		settings["timeout"] = "300ms"
	}
	if row.Fault == "password file away" {
		settings["password"] = map[string]any{"file": b.path(row)}
	}
	return settings
}

// quotaHandler is what a handler of a row about quotas has. Each has an instance of its own, since that is what a quota is asked by.
func (r *faultRow) quotaHandler(name string) (params map[string]any, others []resource) {
	params = map[string]any{"quotas": []any{map[string]any{"instance": name, "amount": faultLimit, "window": "1h", "store": r.id}}}
	return params, []resource{
		newResource("instance", name, map[string]any{
			"template": "quota", "params": map[string]any{"dimensions": map[string]any{"user": `request.headers["x-user"] | "unknown"`}},
		}),
		newResource("rule", name, map[string]any{"actions": []any{map[string]any{"handler": name, "instances": []string{name}}}}),
	}
}

// hasRedis reports whether there is a Redis to start. Under CI there has to be one.
func hasRedis(t *testing.T) bool {
	t.Helper()
	_, err := mesh.FindRedis()
	if os.Getenv("CI") == "true" {
		require.NoError(t, err)
	}
	return err == nil
}
