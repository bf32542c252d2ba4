package policies_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policies"
	"github.com/tollgate-mesh/tollgate/config"
)

// signer signs bundles.
type signer struct{ private, public string }

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	return signer{
		private: string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})),
		public:  write(t, filepath.Join(t.TempDir(), "public.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))),
	}
}

// files make a bundle, by path.
type files map[string]string

// pack makes the bundle's archive, as OPA writes it if it can be read as one.
func (f files) pack(t *testing.T) []byte {
	t.Helper()
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	packed := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		require.NoError(t, packed.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(f[name]))}))
		_, err := packed.Write([]byte(f[name]))
		require.NoError(t, err)
	}
	require.NoError(t, packed.Close())
	require.NoError(t, zipped.Close())
	return archive.Bytes()
}

// sign adds the signature with OPA's own writer.
func (f files) sign(t *testing.T, by signer, scope string) files {
	t.Helper()
	b, err := bundle.NewReader(bytes.NewReader(f.pack(t))).WithSkipBundleVerification(true).Read()
	signing := bundle.NewSigningConfig(by.private, "ES256", "")
	if scope != "" || err != nil { // the writer adds no scope, and writes no bundle that it would not read
		var listed []bundle.FileInfo
		hasher, err := bundle.NewSignatureHasher(bundle.SHA256)
		require.NoError(t, err)
		for _, name := range slices.Sorted(maps.Keys(f)) {
			var value any = f[name]
			if strings.HasSuffix(name, ".json") || name == ".manifest" {
				require.NoError(t, json.Unmarshal([]byte(f[name]), &value))
			} else {
				value = []byte(f[name])
			}
			sum, err := hasher.HashFile(value)
			require.NoError(t, err)
			listed = append(listed, bundle.NewFile(name, hex.EncodeToString(sum), "SHA-256"))
		}
		signing.ClaimsPath = write(t, filepath.Join(t.TempDir(), "claims.json"), mustJSON(t, map[string]any{"scope": scope}))
		token, err := bundle.GenerateSignedToken(listed, signing, "release")
		require.NoError(t, err)
		signed := maps.Clone(f)
		signed[".signatures.json"] = mustJSON(t, map[string]any{"signatures": []string{token}})
		return signed
	}
	require.NoError(t, b.GenerateSignature(signing, "release", false))
	var written bytes.Buffer
	require.NoError(t, bundle.NewWriter(&written).DisableFormat(true).Write(b))
	return unpack(t, written.Bytes())
}

func unpack(t *testing.T, archive []byte) files {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	require.NoError(t, err)
	f := files{}
	packed := tar.NewReader(unzipped)
	for {
		header, err := packed.Next()
		if err != nil {
			return f
		}
		var content bytes.Buffer
		_, err = content.ReadFrom(packed)
		require.NoError(t, err)
		f[strings.TrimPrefix(header.Name, "/")] = content.String()
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	document, err := json.Marshal(v)
	require.NoError(t, err)
	return string(document)
}

// revision is a bundle whose answers say which it is.
func revision(n int) files {
	return files{
		".manifest":      fmt.Sprintf(`{"revision": "v%d", "roots": ["shop"], "rego_version": 1}`, n),
		"shop/shop.rego": fmt.Sprintf("package shop\nallow := {\"allow\": false, \"reason\": sprintf(\"%%d %%d\", [%d, data.shop.code])}\n", n),
		"shop/data.json": fmt.Sprintf(`{"code": %d}`, n),
	}
}

// bundleServer is a real HTTP server that offers one bundle, by ETag.
type bundleServer struct {
	*httptest.Server
	mu      sync.Mutex
	serve   func(w http.ResponseWriter, r *http.Request)
	asked   int
	unseen  int // requests that were answered with 304
	headers []http.Header
}

func newBundleServer(t *testing.T) *bundleServer {
	t.Helper()
	s := &bundleServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked++
		s.headers = append(s.headers, r.Header.Clone())
		serve := s.serve
		s.mu.Unlock()
		serve(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// offer serves a bundle, with an ETag of its own.
func (s *bundleServer) offer(archive []byte) {
	tag := fmt.Sprintf(`"%x"`, len(archive)) + fmt.Sprintf("-%x", archive[max(0, len(archive)-16):])
	s.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			s.mu.Lock()
			s.unseen++
			s.mu.Unlock()
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(archive)
	})
}

func (s *bundleServer) answer(serve func(w http.ResponseWriter, r *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve = serve
}

// seen returns the headers of all requests so far.
func (s *bundleServer) seen() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.headers)
}

func (s *bundleServer) counts() (asked, unseen int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.unseen
}

func (s *bundleServer) source(by *signer) policies.Source {
	b := &policies.Bundle{URL: s.URL + "/bundles/shop.tar.gz", MinRefresh: time.Second, MaxRefresh: time.Second, Timeout: patience}
	if by != nil {
		b.Keys = map[string]policies.BundleKey{"release": {File: by.public, Algorithm: "ES256"}}
	}
	return policies.Source{Bundle: b, Version: config.RegoV1, MaxBytes: 1 << 20}
}

func TestBundle(t *testing.T) {
	t.Parallel()
	by, stranger := newSigner(t), newSigner(t)
	server := newBundleServer(t)
	server.offer(revision(1).sign(t, by, "").pack(t))
	f := open(t, server.source(&by))
	assert.Equal(t, "policy_not_loaded", f.reason(t))
	require.EqualError(t, f.store.Problem("shop"), "it is not loaded yet")
	f.run(t)
	f.await(t, "1 1", "shop@v1")
	stats := f.source.Stats()
	assert.Equal(t, "v1", stats.Revision)
	require.NoError(t, stats.Err)
	require.NoError(t, f.store.Problem("shop"))
	require.Eventually(t, func() bool { _, unseen := server.counts(); return unseen > 0 }, patience, time.Millisecond, "what is known is not sent again")

	server.offer(revision(2).sign(t, by, "").pack(t))
	f.await(t, "2 2", "shop@v2")

	// None of these counts, and each says why. In between the good one is served again, which ends the complaint.
	tampered := revision(3).sign(t, by, "")
	tampered["shop/shop.rego"] += "\n# more\n"
	added := revision(3).sign(t, by, "")
	added["shop/more.rego"] = "package shop\nmore := true"
	outside := revision(3)
	outside["data.json"] = `{"elsewhere": 1}`
	broken := revision(3)
	broken["shop/shop.rego"] = "package shop\nallow := \"hunter2\" +\n"
	unsafe := revision(3)
	unsafe["shop/shop.rego"] = "package shop\nallow := { \"hunter2\" | x == 1 }\n"
	network := revision(3)
	network["shop/shop.rego"] = "package shop\nallow if http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"}).status_code == 200"
	good := revision(3).sign(t, by, "").pack(t)
	huge := revision(3)
	huge["shop/data.json"] = `{"code": 3, "fill": "` + strings.Repeat("x", 1<<20) + `"}`
	delta := files{".manifest": `{"revision": "v3", "roots": ["shop"]}`, "patch.json": `{"data": [{"op": "upsert", "path": "/shop/code", "value": 3}]}`}
	compiled := revision(3)
	compiled["policy.wasm"] = "\x00asm"
	for name, c := range map[string]struct {
		archive []byte
		want    string
	}{
		"unsigned":            {revision(3).pack(t), "bundle missing .signatures.json file"},
		"another's signature": {revision(3).sign(t, stranger, "").pack(t), "failed to verify JWT signature"},
		"tampered":            {tampered.pack(t), "shop/shop.rego: digest mismatch"},
		"more than is signed": {added.pack(t), "file shop/more.rego not included in bundle signature"},
		"outside its roots":   {outside.sign(t, by, "").pack(t), "elsewhere"},
		"syntax":              {broken.pack(t), "bundle missing .signatures.json file"},
		"unsafe":              {unsafe.sign(t, by, "").pack(t), "rego_unsafe_var_error"},
		"network":             {network.sign(t, by, "").pack(t), "undefined function http.send"},
		"no policy":           {files{".manifest": `{"revision": "v3", "roots": ["shop"]}`, "shop/data.json": `{"code": 3}`}.sign(t, by, "").pack(t), "it has no Rego module"},
		"cut off":             {good[:len(good)-9], "damaged"},
		"damaged":             {slices.Concat(good[:len(good)/2], []byte{good[len(good)/2] ^ 1}, good[len(good)/2+1:]), ""},
		"no archive":          {[]byte("<html>hello</html>"), "no gzip archive"},
		"empty":               {nil, "no gzip archive"},
		"huge":                {huge.pack(t), "the bundle has more than 1048576 bytes when it is unpacked"},
		"huge on the wire":    {bytes.Repeat([]byte("x"), 1<<20+1), "the bundle has more than 1048576 bytes; max_bytes"},
		"a delta":             {delta.pack(t), "the bundle is a delta"},
		"WebAssembly":         {compiled.pack(t), "WebAssembly"},
	} {
		before := f.source.Stats().Rejected
		server.offer(append([]byte{}, c.archive...))
		require.Eventually(t, func() bool { return f.source.Stats().Rejected > before }, patience, time.Millisecond, name)
		stats := f.source.Stats()
		if assert.ErrorContains(t, stats.Err, c.want, name) {
			assert.NotContains(t, stats.Err.Error(), "hunter2", name)
			require.ErrorContains(t, f.store.Problem("shop"), "it stays at revision v2: ", name)
		}
		assert.Equal(t, "2 2", f.reason(t), name)
		server.offer(revision(2).sign(t, by, "").pack(t))
		require.Eventually(t, func() bool { return f.source.Stats().Err == nil }, patience, time.Millisecond, name)
	}

	server.offer(good)
	f.await(t, "3 3", "shop@v3")
	server.offer(revision(1).sign(t, by, "").pack(t))
	f.await(t, "1 1", "shop@v1") // a rollback

	server.answer(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "planted", http.StatusInternalServerError) })
	require.Eventually(t, func() bool { return f.source.Stats().Err != nil }, patience, time.Millisecond)
	assert.Contains(t, f.source.Stats().Err.Error(), "Internal Server Error")
	server.answer(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	require.Eventually(t, func() bool { return strings.Contains(fmt.Sprint(f.source.Stats().Err), "Found") }, patience, time.Millisecond)
	server.Close()
	require.Eventually(t, func() bool { return strings.Contains(fmt.Sprint(f.source.Stats().Err), "refused") }, patience, time.Millisecond)
	assert.Equal(t, "1 1", f.reason(t))
	for _, header := range server.seen() {
		assert.Equal(t, []string{"modes=snapshot"}, header.Values("Prefer"))
		assert.Empty(t, header.Values("Authorization"))
	}
}

// A server that begins to answer and does not end holds up no attempt for ever.
func TestSlowBundle(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t)
	release := make(chan struct{})
	server.answer(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte{0x1f, 0x8b})
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	source := server.source(nil)
	source.Bundle.Timeout = time.Second // a good answer comes sooner, on a busy machine after some attempts
	f := open(t, source)
	f.run(t)
	require.Eventually(t, func() bool { return f.source.Stats().Rejected > 1 }, patience, time.Millisecond)
	close(release)
	server.offer(revision(1).pack(t))
	require.Eventually(t, func() bool { return f.source.Stats().Revision == "v1" }, patience, time.Millisecond)
}

// Nor does a connection to a server that does not even say who it is.
func TestBundleConnectionsEnd(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	left := make(chan struct{})
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		_, _ = io.Copy(io.Discard, connection)
		close(left)
	}()
	f := open(t, policies.Source{
		Bundle:  &policies.Bundle{URL: "https://" + listener.Addr().String() + "/shop.tar.gz", MinRefresh: time.Second, MaxRefresh: time.Second, Timeout: 100 * time.Millisecond},
		Version: config.RegoV1, MaxBytes: 1 << 20,
	})
	f.run(t)
	select {
	case <-left:
	case <-time.After(patience):
		t.Fatal("the connection stays")
	}
}

func TestBundleScope(t *testing.T) {
	t.Parallel()
	by := newSigner(t)
	server := newBundleServer(t)
	server.offer(revision(1).sign(t, by, "write").pack(t))
	source := server.source(&by)
	source.Bundle.Scope = "read"
	f := open(t, source)
	f.run(t)
	require.Eventually(t, func() bool { return f.source.Stats().Rejected > 0 }, patience, time.Millisecond)
	require.ErrorContains(t, f.source.Stats().Err, "scope mismatch")
	server.offer(revision(1).sign(t, by, "read").pack(t))
	f.await(t, "1 1", "shop@v1")

	f = open(t, server.source(&by))
	f.run(t)
	require.Eventually(t, func() bool { return f.source.Stats().Rejected > 0 }, patience, time.Millisecond)
	require.ErrorContains(t, f.source.Stats().Err, "scope mismatch", "one with a scope is not one without")
}

func TestBundleCredentials(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t)
	server.offer(revision(1).pack(t))
	source := server.source(nil)
	source.Bundle.BearerFile = filepath.Join(t.TempDir(), "token")
	f := open(t, source)
	f.run(t)
	require.Eventually(t, func() bool { return f.source.Stats().Rejected > 0 }, patience, time.Millisecond)
	require.ErrorContains(t, f.source.Stats().Err, "bearer_file: ")
	asked, _ := server.counts()
	assert.Zero(t, asked, "nobody is asked without the credential")
	write(t, source.Bundle.BearerFile, "planted-token\n")
	f.await(t, "1 1", "shop@v1")
	assert.Equal(t, "Bearer planted-token", server.seen()[0].Get("Authorization"))
}

// An address may have a credential, as signed ones of object stores do.
func TestErrorsShowNoQuery(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t)
	server.offer(revision(1).pack(t))
	source := server.source(nil)
	source.Bundle.URL += "?version=%22&signature=planted%2F"
	f := open(t, source)
	f.run(t)
	f.await(t, "1 1", "shop@v1")
	server.Close()
	require.Eventually(t, func() bool { return f.source.Stats().Err != nil }, patience, time.Millisecond)
	assert.Contains(t, f.source.Stats().Err.Error(), "shop.tar.gz?…")
	assert.NotContains(t, f.source.Stats().Err.Error()+f.log.String(), "planted")
}

func TestBundleOverTLS(t *testing.T) {
	t.Parallel()
	archive := revision(1).pack(t)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(archive) }))
	defer server.Close()
	source := policies.Source{
		Bundle:  &policies.Bundle{URL: server.URL + "/shop.tar.gz", MinRefresh: time.Second, MaxRefresh: time.Second, Timeout: patience},
		Version: config.RegoV1, MaxBytes: 1 << 20,
	}
	f := open(t, source)
	f.run(t)
	require.Eventually(t, func() bool { return f.source.Stats().Rejected > 0 }, patience, time.Millisecond)
	require.ErrorContains(t, f.source.Stats().Err, "certificate")
	source.Bundle.CA = write(t, filepath.Join(t.TempDir(), "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	f = open(t, source)
	f.run(t)
	f.await(t, "1 1", "shop@v1")
}

// Documents below system are a bundle's as any others, but for those that OPA puts there. Without them a policy's "not blocked" would be
// true for everybody.
func TestBundleWithDataBelowSystem(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t)
	server.offer(files{
		".manifest":        `{"revision": "v1", "roots": [""]}`,
		"shop.rego":        "package shop\nallow := {\"allow\": false, \"reason\": json.marshal(data.system)}",
		"system/data.json": `{"blocked": {"eve": true}}`,
	}.pack(t))
	f := open(t, server.source(nil))
	f.run(t)
	f.awaitReason(t, `{"blocked":{"eve":true}}`)
}

// The manifest says in which language the bundle is, and file by file. Without a revision the content names itself. Tests are left out.
func TestBundleLanguages(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t)
	server.offer(files{
		".manifest":           `{"roots": [""], "rego_version": 0, "file_rego_versions": {"today.rego": 1}}`,
		"older.rego":          "package shop\nallow = {\"allow\": false, \"reason\": r} { r := sprintf(\"%d %s\", [data.n, data.today.answer]) }",
		"today.rego":          "package today\nanswer := \"yes\" if true",
		"shop_test.rego":      "package shop\ntest_it { true with input as {\"request\": 1} }\nhelper { input.request }",
		"sub/data.yaml":       "x: 1",
		"data.json":           `{"n": 7}`,
		"notes/README.md":     "hello",
		"ignored/policy.json": `{"n": 8}`,
	}.pack(t))
	f := open(t, server.source(nil))
	f.run(t)
	f.awaitReason(t, "7 yes")
	assert.Regexp(t, `^shop@sha256:[0-9a-f]{12}$`, f.revision(t))

	source := server.source(nil)
	source.Version = config.RegoV0
	server.offer(files{"older.rego": "package shop\nallow = {\"allow\": false, \"reason\": \"older\"} { true }"}.pack(t))
	f = open(t, source)
	f.run(t)
	f.awaitReason(t, "older")
}

// `not` means something else in the language that comes after today's.
func TestBundleInALanguageThatIsNotKnown(t *testing.T) {
	t.Parallel()
	for manifest, want := range map[string]string{
		`{"rego_version": 2}`:                                         "the manifest's rego_version is 2; use 0 or 1",
		`{"file_rego_versions": {"shop.rego": 2}}`:                    "the manifest's rego_version of shop.rego is 2; use 0 or 1",
		`{"rego_version": 2, "file_rego_versions": {"shop.rego": 1}}`: "the manifest's rego_version is 2; use 0 or 1",
	} {
		server := newBundleServer(t)
		server.offer(files{".manifest": manifest, "shop.rego": "package shop\nallow := true"}.pack(t))
		f := open(t, server.source(nil))
		f.run(t)
		require.Eventually(t, func() bool { return f.source.Stats().Rejected > 0 }, patience, time.Millisecond, manifest)
		require.ErrorContains(t, f.source.Stats().Err, want, manifest)
		assert.Equal(t, "policy_not_loaded", f.reason(t))
	}
}

// What was good is there after a restart, though the server is not; and it is verified again.
func TestPersistedBundle(t *testing.T) {
	t.Parallel()
	by := newSigner(t)
	server := newBundleServer(t)
	server.offer(revision(1).sign(t, by, "").pack(t))
	source := server.source(&by)
	source.Bundle.Persist = t.TempDir()
	f := open(t, source)
	stop := f.run(t)
	f.await(t, "1 1", "shop@v1")
	server.offer(revision(2).pack(t)) // unsigned
	require.Eventually(t, func() bool { return f.source.Stats().Rejected > 0 }, patience, time.Millisecond)
	stop()
	server.Close()

	f = open(t, source)
	stop = f.run(t)
	f.await(t, "1 1", "shop@v1")
	stop()
	assert.NotContains(t, f.log.String(), "the bundle that was kept")

	kept, err := filepath.Glob(filepath.Join(source.Bundle.Persist, "bundles", "shop", "*"))
	require.NoError(t, err)
	require.Len(t, kept, 1)
	require.NoError(t, os.WriteFile(kept[0], revision(3).pack(t), 0o600))
	f = open(t, source)
	f.run(t)
	require.Eventually(t, func() bool { return f.source.Stats().Rejected > 0 }, patience, time.Millisecond)
	assert.Equal(t, "policy_not_loaded", f.reason(t), "who can write to the disk is not who may sign")
	require.Eventually(t, func() bool { return strings.Contains(f.log.String(), `msg="the bundle that was kept is not taken`) }, patience, time.Millisecond)
	assert.Contains(t, f.log.String(), "file="+kept[0])
}

// A bundle that cannot be kept is in force all the same. OPA then goes on to ask for changes since the one before it, so that the server's
// "no change" after a rollback would leave in force what was rolled back.
func TestABundleThatCannotBeKept(t *testing.T) {
	t.Parallel()
	server := newBundleServer(t)
	server.offer(revision(1).pack(t))
	source := server.source(nil)
	source.Bundle.Persist = t.TempDir()
	f := open(t, source)
	f.run(t)
	f.await(t, "1 1", "shop@v1")
	require.Eventually(t, func() bool { _, unseen := server.counts(); return unseen > 0 }, patience, time.Millisecond)

	kept := filepath.Join(source.Bundle.Persist, "bundles")
	require.NoError(t, os.RemoveAll(kept))
	write(t, kept, "no directory")
	server.offer(revision(2).pack(t))
	f.await(t, "2 2", "shop@v2")
	require.Eventually(t, func() bool { return f.source.Stats().Err != nil }, patience, time.Millisecond)
	require.ErrorContains(t, f.source.Stats().Err, "it is in force, but was not kept: ")
	server.answer(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusBadGateway) })
	require.Eventually(t, func() bool { return strings.Contains(fmt.Sprint(f.source.Stats().Err), "Bad Gateway") }, patience, time.Millisecond)
	server.offer(revision(1).pack(t))
	f.await(t, "1 1", "shop@v1")

	require.NoError(t, os.Remove(kept))
	require.Eventually(t, func() bool { return f.source.Stats().Err == nil }, patience, time.Millisecond)
	_, before := server.counts()
	require.Eventually(t, func() bool { _, unseen := server.counts(); return unseen > before }, patience, time.Millisecond, "what is known is not sent again")
}

func TestBundleSettingsThatCannotWork(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	empty, text := write(t, filepath.Join(directory, "empty"), "\n"), write(t, filepath.Join(directory, "text"), "no PEM")
	for name, c := range map[string]struct {
		bundle policies.Bundle
		want   string
	}{
		"no key file": {policies.Bundle{URL: "http://127.0.0.1/b", Keys: map[string]policies.BundleKey{"a": {File: filepath.Join(directory, "missing")}}}, "policies.shop.bundle.keys.a.file: "},
		"no PEM": {
			policies.Bundle{URL: "http://127.0.0.1/b", Keys: map[string]policies.BundleKey{"a": {File: text, Algorithm: "ES256"}}},
			"policies.shop.bundle.keys.a.file: " + text + " has no key in PEM; with ES256 it must hold a public key or a certificate",
		},
		"empty secret": {
			policies.Bundle{URL: "http://127.0.0.1/b", Keys: map[string]policies.BundleKey{"a": {File: empty, Algorithm: "HS256"}}},
			"policies.shop.bundle.keys.a.file: " + empty + " is empty; it must hold the secret",
		},
		"kept in a file": {policies.Bundle{URL: "http://127.0.0.1/b", Persist: text}, "policies.shop.bundle.persist is \"" + text + "\", which is no directory"},
		"no CA":          {policies.Bundle{URL: "http://127.0.0.1/b", CA: filepath.Join(directory, "missing")}, "policies.shop.bundle.ca: "},
		"empty CA":       {policies.Bundle{URL: "http://127.0.0.1/b", CA: empty}, "has no certificate in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := policies.Open(map[string]policies.Source{"shop": {Bundle: &c.bundle, MaxBytes: 1}}, environment(), slog.New(slog.DiscardHandler))
			require.ErrorContains(t, err, c.want)
		})
	}
}

// Updated and rolled back while it decides: no decision fails, and none is made of two bundles.
func TestBundlesUnderLoad(t *testing.T) {
	t.Parallel()
	by := newSigner(t)
	server := newBundleServer(t)
	var archives [][]byte
	for n := range 2 {
		archives = append(archives, revision(n).sign(t, by, "").pack(t))
	}
	server.offer(archives[0])
	f := open(t, server.source(&by))
	f.run(t)
	f.await(t, "0 0", "shop@v0")
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			for ctx.Err() == nil {
				v := f.ask(context.WithoutCancel(ctx))
				if !assert.Nil(t, v.Failure) || !assert.Contains(t, []string{"0 0 shop@v0", "1 1 shop@v1"}, v.Reason+" "+v.Revision) {
					return
				}
			}
		})
	}
	for _, n := range []int{1, 0, 1} {
		server.offer(archives[n])
		f.await(t, fmt.Sprint(n, n), fmt.Sprint("shop@v", n))
	}
	cancel()
	callers.Wait()
}
