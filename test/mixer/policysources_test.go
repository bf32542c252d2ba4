package mixer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	opabundle "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/codes"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// bundleKey is a key that signs bundles.
type bundleKey struct{ private, public string }

func newBundleKey(t *testing.T) bundleKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	return bundleKey{
		private: string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})),
		public:  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
	}
}

// buildBundle makes a bundle of files, as OPA reads, signs and writes it. Without a key nobody signs it.
func buildBundle(t *testing.T, files map[string]string, key *bundleKey) []byte {
	t.Helper()
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	packed := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		require.NoError(t, packed.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(files[name]))}))
		_, err := packed.Write([]byte(files[name]))
		require.NoError(t, err)
	}
	require.NoError(t, packed.Close())
	require.NoError(t, zipped.Close())
	b, err := opabundle.NewReader(&archive).WithSkipBundleVerification(true).Read()
	require.NoError(t, err)
	if key != nil {
		require.NoError(t, b.GenerateSignature(opabundle.NewSigningConfig(key.private, "ES256", ""), "default", false))
	}
	var written bytes.Buffer
	require.NoError(t, opabundle.NewWriter(&written).DisableFormat(true).Write(b))
	return written.Bytes()
}

// bundleServer is a real HTTP server that offers one bundle.
type bundleServer struct {
	*httptest.Server
	mu      sync.Mutex
	archive []byte
	tag     int
	status  int
}

func newBundleServer(t *testing.T) *bundleServer {
	t.Helper()
	s := &bundleServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		archive, tag, status := s.archive, strconv.Quote(strconv.Itoa(s.tag)), s.status
		s.mu.Unlock()
		w.Header().Set("ETag", tag)
		switch {
		case status != 0:
			w.WriteHeader(status)
		case r.Header.Get("If-None-Match") == tag:
			w.WriteHeader(http.StatusNotModified)
		default:
			_, _ = w.Write(archive)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *bundleServer) offer(archive []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.archive, s.status = archive, 0
	s.tag++
}

func (s *bundleServer) fail(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// revisionOf is a bundle whose denials say which revision it is, by code and by data.
func revisionOf(t *testing.T, n int, key *bundleKey) []byte {
	t.Helper()
	return buildBundle(t, map[string]string{
		".manifest": fmt.Sprintf(`{"revision": "v%d", "roots": ["company"], "rego_version": 1}`, n),
		"company/policy.rego": fmt.Sprintf(`package company
default allow := {"allow": false, "message": "nothing"}
allow := {"allow": false, "message": sprintf("revision %%d %%d for %%s", [%d, data.company.n, input.subject.user])} if input.subject.user != data.company.friend
allow := {"allow": true, "lifetime": "single_use"} if input.subject.user == data.company.friend
`, n),
		"company/data.json": fmt.Sprintf(`{"n": %d, "friend": "friend-%d"}`, n, n),
	}, key)
}

const bundledResources = `
apiVersion: config.istio.io/v1alpha2
kind: handler
metadata: {name: bundled, namespace: istio-system}
spec:
  adapter: tollgate
  connection: {address: "ADDRESS"}
  params: {name: bundled, policy_source: company, check_method: data.company.allow}
---
apiVersion: config.istio.io/v1alpha2
kind: instance
metadata: {name: bundled, namespace: istio-system}
spec:
  template: authorization
  params:
    subject:
      user: request.headers["x-user"] | ""
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: bundled, namespace: istio-system}
spec:
  match: request.path == "/bundled"
  actions: [{handler: bundled, instances: [bundled]}]
`

// testPolicySources updates a signed bundle and rolls it back while many callers ask: nobody gets a failure, nobody an answer that is
// of neither revision, and nobody an older answer after a newer one. What is no good bundle changes nothing.
func testPolicySources(t *testing.T, s *suite) {
	key, stranger := newBundleKey(t), newBundleKey(t)
	directory := t.TempDir()
	public := filepath.Join(directory, "key.pem")
	require.NoError(t, os.WriteFile(public, []byte(key.public), 0o600))
	server := newBundleServer(t)
	server.fail(http.StatusServiceUnavailable)
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Args: []string{"--log-level", "debug"}, Settings: fmt.Sprintf(`
evaluation_timeout: 5s
readiness: {source_wait: 0s}
policies:
  company:
    bundle: {url: %q, keys: {default: {file: %q, algorithm: ES256}}, min_refresh: 1s, max_refresh: 1s, persist: %q}
`, server.URL+"/company.tar.gz", public, filepath.Join(directory, "persisted"))})
	meshtest.Apply(t, s.mixer, "bundled", strings.ReplaceAll(bundledResources, "ADDRESS", tollgate.Addr))
	t.Cleanup(func() { assert.NoError(t, s.mixer.Delete("bundled")) })
	ask := func(user string) mesh.Attributes { return request("/bundled", "x-user", user) }
	s.await(t, "no policy", ask("caller-a"), func(a answer) bool { return a == refused })
	assert.Contains(t, s.check(t, ask("caller-a")).Message, "(policy not loaded)")

	atRevision := func(n int) {
		t.Helper()
		want := fmt.Sprintf("revision %d %d for caller-a", n, n)
		waitFor(t, want, func(ctx context.Context) error {
			v, err := s.mixer.Check(ctx, ask("caller-a"))
			if err == nil && !strings.HasSuffix(v.Message, want) {
				err = fmt.Errorf("%v", v)
			}
			return err
		})
	}
	server.offer(revisionOf(t, 1, &key))
	atRevision(1)

	const after = 50 // decisions of every caller after the switch
	// Callers of a phase in which the revision goes from one to another, and only so.
	said := regexp.MustCompile(`:revision (\d) (\d) for (\S+)$`)
	phase := func(from, to int, change func()) {
		t.Helper()
		done := make(chan struct{})
		var callers sync.WaitGroup
		counts := make([]map[int]int, 8)
		for caller := range counts {
			counts[caller] = map[int]int{}
			callers.Go(func() {
				user, reached := fmt.Sprint("caller-", caller), from
				for i := 0; running(done) || counts[caller][to] < after && t.Context().Err() == nil; i++ {
					if i%4 == 3 { // the one user that the revision lets pass is of the revision too
						friend := s.check(t, ask(fmt.Sprint("friend-", to)))
						if friend.Code == codes.OK {
							reached = to
						} else if !assert.Contains(t, friend.Message, fmt.Sprintf("revision %d %d for friend-%d", from, from, to)) ||
							!assert.Equal(t, from, reached, "back at the former revision") {
							return
						}
						continue
					}
					v := s.check(t, ask(user))
					parts := said.FindStringSubmatch(v.Message)
					if !assert.Equal(t, denied.String(), answerOf(v).String(), v.Message) || !assert.NotNil(t, parts, v.Message) {
						return
					}
					n, _ := strconv.Atoi(parts[1])
					if !assert.Equal(t, []string{parts[1], user}, parts[2:]) || !assert.Contains(t, []int{from, to}, n) ||
						!assert.True(t, n == to || reached == from, "back at the former revision") {
						return
					}
					reached = n
					counts[caller][n]++
				}
			})
		}
		change()
		atRevision(to)
		close(done)
		callers.Wait()
		total := map[int]int{}
		for _, count := range counts {
			for n, of := range count {
				total[n] += of
			}
		}
		t.Logf("from revision %d to %d: decisions by revision %v", from, to, total)
	}
	phase(1, 2, func() { server.offer(revisionOf(t, 2, &key)) })
	phase(2, 1, func() { server.offer(revisionOf(t, 1, &key)) }) // rolled back
	phase(1, 3, func() {
		// None of these counts.
		server.offer(revisionOf(t, 2, nil))
		waitForLog(t, tollgate, "bundle missing .signatures.json file")
		server.offer(revisionOf(t, 2, &stranger))
		waitForLog(t, tollgate, "failed to verify JWT signature")
		server.offer(revisionOf(t, 2, &key)[:400])
		waitForLog(t, tollgate, "damaged")
		server.offer(make([]byte, 17<<20))
		waitForLog(t, tollgate, "max_bytes bounds it")
		server.fail(http.StatusInternalServerError)
		waitForLog(t, tollgate, "Internal Server Error")
		assert.Contains(t, metrics(t, tollgate), `tollgate_policy_failing{source="company"} 1`)
		server.offer(revisionOf(t, 3, &key))
	})
	text := metrics(t, tollgate)
	assert.Contains(t, text, `tollgate_policy_revision_info{revision="v3",source="company"} 1`)
	assert.Contains(t, text, `tollgate_policy_failing{source="company"} 0`)
	assert.NotContains(t, text, `outcome="failed_open"`)
	assert.Regexp(t, `"revision":"[0-9a-f]{12}/company@v3"`, tollgate.Log.String(), "every decision names the revision")

	// After a restart the last good one is there, though the server is not.
	server.Close()
	require.NoError(t, tollgate.Restart(t.Context()))
	atRevision(3)
}

// testPolicyExamples applies the examples whose policies come from elsewhere, as they say.
func testPolicyExamples(t *testing.T, s *suite) {
	var configMap struct{ Data map[string]string }
	require.NoError(t, yaml.Unmarshal([]byte(readFile(t, root, "operatorconfig/examples/policy-directory.configmap.yaml")), &configMap))
	files := configMap.Data
	require.Len(t, files, 3)
	ask := func(path, method, user string) mesh.Attributes {
		return request(path, "x-custom-token", "abc", "x-user", user).With(mesh.Attributes{"context.reporter.kind": "inbound", "request.method": method})
	}
	run := func(t *testing.T, name, settings string) *mesh.Tollgate {
		t.Helper()
		tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Settings: settings})
		t.Cleanup(func() { assert.NoError(t, s.mixer.Delete("example-"+name)) })
		meshtest.Apply(t, s.mixer, "example-"+name, strings.ReplaceAll(readFile(t, root, "operatorconfig/examples/"+name+".yaml"), exampleAddress, tollgate.Addr))
		return tollgate
	}
	expect := func(t *testing.T, path string) {
		t.Helper()
		ok := answer{codes.OK, 2 * time.Second, 1000} // the uses are those of the first example, which checks everything
		s.await(t, "the example", ask(path, "GET", ""), func(a answer) bool { return a == ok })
		assert.Equal(t, ok.String(), answerOf(s.checkInTime(t, ask(path, "PUT", "alice"))).String())
		for _, user := range []string{"mallory", ""} {
			v := s.checkInTime(t, ask(path, "PUT", user))
			assert.Equal(t, codes.PermissionDenied, v.Code, v.Message)
			assert.Contains(t, v.Message, "only staff may change prices")
		}
	}
	t.Run("directory", func(t *testing.T) {
		directory := t.TempDir()
		mount := filepath.Join(directory, "policies", "shop")
		require.NoError(t, os.MkdirAll(mount, 0o700))
		mountConfigMap(t, mount, files)
		settings := strings.ReplaceAll(readFile(t, root, "operatorconfig/examples/policy-directory.settings.yaml"), "/etc/tollgate", directory)
		tollgate := run(t, "policy-directory", settings)
		expect(t, "/prices")

		binaries, err := mesh.FindBinaries()
		require.NoError(t, err)
		path, err := binaries.Tollgate(t.Context())
		require.NoError(t, err)
		for _, args := range [][]string{{"policy", "test", mount}, {"policy", "check", "--check-method", "data.shop.allow", mount}} {
			out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}

		// A syntax error changes nothing, and another revision does.
		broken := maps.Clone(files)
		broken["shop.rego"] = "package shop\nallow := "
		mountConfigMap(t, mount, broken)
		waitForLog(t, tollgate, "a policy was not taken")
		expect(t, "/prices")
		changed := maps.Clone(files)
		changed["staff.yaml"] = "staff: [mallory]"
		mountConfigMap(t, mount, changed)
		s.await(t, "the new staff", ask("/prices", "PUT", "mallory"), func(a answer) bool { return a.code == codes.OK })
		assert.Equal(t, codes.PermissionDenied, s.checkInTime(t, ask("/prices", "PUT", "alice")).Code)
	})
	t.Run("bundle", func(t *testing.T) {
		directory := t.TempDir()
		key := newBundleKey(t)
		require.NoError(t, os.MkdirAll(filepath.Join(directory, "keys"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(directory, "keys", "release.pem"), []byte(key.public), 0o600))
		server := newBundleServer(t)
		content := map[string]string{".manifest": `{"revision": "v1", "rego_version": 1}`, "data.yaml": files["staff.yaml"], "shop.rego": files["shop.rego"], "shop_test.rego": files["shop_test.rego"]}
		server.offer(buildBundle(t, content, &key))
		settings := strings.NewReplacer("/etc/tollgate", directory, "/var/lib/tollgate", directory, "https://bundles.example.com", server.URL).
			Replace(readFile(t, root, "operatorconfig/examples/policy-bundle.settings.yaml"))
		run(t, "policy-bundle", settings)
		expect(t, "/invoices")
	})
}

// mountConfigMap writes files as Kubernetes mounts a ConfigMap: into a hidden directory, to which a symlink is then swapped.
func mountConfigMap(t *testing.T, mount string, files map[string]string) {
	t.Helper()
	mounted, err := filepath.Glob(filepath.Join(mount, "..2026_*"))
	require.NoError(t, err)
	hidden := filepath.Join(mount, fmt.Sprintf("..2026_%d", len(mounted)))
	require.NoError(t, os.Mkdir(hidden, 0o700))
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(hidden, name), []byte(content), 0o600))
		if _, err := os.Lstat(filepath.Join(mount, name)); err != nil {
			require.NoError(t, os.Symlink(filepath.Join("..data", name), filepath.Join(mount, name)))
		}
	}
	require.NoError(t, os.Symlink(filepath.Base(hidden), filepath.Join(mount, "..data.new")))
	require.NoError(t, os.Rename(filepath.Join(mount, "..data.new"), filepath.Join(mount, "..data")))
}
