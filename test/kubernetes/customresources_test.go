package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"sigs.k8s.io/yaml"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// exampleAddress stands in the examples where a cluster has its Service.
const exampleAddress = "dns:///tollgate.istio-system.svc.cluster.local:44225"

// startCustomResources starts etcd and the part of an API server that custom resources live in.
func startCustomResources(t *testing.T) cluster {
	t.Helper()
	crds, kubectl := program(t, "crds"), program(t, "kubectl")
	directory := t.TempDir()
	store, secure := startEtcd(t, directory), freePort(t)
	start(t, directory, crds, "--etcd-servers", store, "--secure-port", secure, "--cert-dir", directory+"/certificates")
	awaitReady(t, "https://127.0.0.1:"+secure+"/readyz")
	return cluster{kubectl: kubectl, kubeconfig: kubeconfig(t, directory, secure, "nobody-looks-at-it")}
}

// operated is what an operator has: a cluster's API, the Mixers that follow it, and Tollgate.
type operated struct {
	cluster
	mixers   []*mesh.Mixer
	tollgate *mesh.Tollgate
}

// answer is what of a check's answer a proxy acts upon.
type answer struct {
	code codes.Code
	time time.Duration
	uses int32
}

func (a answer) String() string { return fmt.Sprintf("%v for %v, %d uses", a.code, a.time, a.uses) }

var (
	allowed = answer{codes.OK, 5 * time.Second, 1000} // as auth-header.yaml has it
	denied  = answer{codes.PermissionDenied, 0, 0}
	// nobodys is what Mixer answers by itself where no handler is asked.
	nobodys = answer{codes.OK, time.Minute, 10000}
)

// eventually waits until every Mixer answers so, with mixc.
func (o operated) eventually(t *testing.T, want answer, token string) {
	t.Helper()
	for _, mixer := range o.mixers {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := mesh.WaitFor(ctx, fmt.Sprintf("Mixer %s to answer %q with %v", mixer.Version, token, want), func(ctx context.Context) error {
			got, err := mixer.Mixc(ctx, "--string_attributes", "context.reporter.kind=inbound,destination.namespace=default,request.path=/reviews",
				"--stringmap_attributes", "request.headers=x-custom-token:"+token)
			if err != nil {
				return err
			}
			if a := (answer{got.Code, got.ValidFor, got.ValidUses}); got.Failed || a != want {
				return errors.New(got.Output)
			}
			return nil
		})
		cancel()
		require.NoError(t, err)
	}
}

// asked returns how many decisions a Tollgate has made since its start.
func asked(t *testing.T, tollgate *mesh.Tollgate) (decisions int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+tollgate.AdminAddr+"/metrics", nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	for _, line := range regexp.MustCompile(`(?m)^tollgate_decisions_total\{.*\} (\d+)$`).FindAllStringSubmatch(string(page), -1) {
		var n int
		_, err := fmt.Sscan(line[1], &n)
		require.NoError(t, err)
		decisions += n
	}
	return decisions
}

// must runs kubectl and wants it to succeed.
func (c cluster) must(t *testing.T, input string, arguments ...string) string {
	t.Helper()
	output, err := c.run(t, []byte(input), arguments...)
	require.NoError(t, err, "kubectl %s: %s", strings.Join(arguments, " "), output)
	return output
}

// applied applies manifests as a careful operator would: what the server makes of them first, then in earnest, both strictly.
func (c cluster) applied(t *testing.T, manifests string) {
	t.Helper()
	c.must(t, manifests, "apply", "--validate=strict", "--dry-run=server", "-f", "-")
	c.must(t, manifests, "apply", "--validate=strict", "-f", "-")
}

// mixersDefinitions are the definitions of Mixer's custom resources as Istio 1.7.8 ships them. Those of 1.6 and 1.5 are the same kinds, in a form
// that API servers do not take since Kubernetes 1.22.
func mixersDefinitions(t *testing.T) string {
	t.Helper()
	binaries, err := mesh.FindBinaries()
	require.NoError(t, err)
	var all strings.Builder
	for _, file := range []string{"crd-all.gen.yaml", "crd-mixer.yaml"} {
		text, err := binaries.IstioFile(t.Context(), "1.7.8", "manifests/charts/base/crds/"+file)
		require.NoError(t, err)
		_, _ = fmt.Fprintf(&all, "---\n%s\n", text)
	}
	return all.String()
}

// TestOperator does with kubectl what an operator does with Mixer's custom resources, from the first to the last, while real Mixers of three
// releases follow the API server and ask Tollgate: what is applied decides, and what is deleted does not any more.
func TestOperator(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) cluster{
		"custom resources alone": startCustomResources,
		"the whole API server":   startCluster,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			operate(t, start(t))
		})
	}
}

func operate(t *testing.T, c cluster) {
	o := operated{cluster: c, tollgate: meshtest.Tollgate(t, mesh.TollgateOptions{})}
	c.applied(t, mixersDefinitions(t))
	c.must(t, "", "wait", "--for=condition=Established", "--timeout="+patience.String(), "crd", "--all")
	output, err := c.run(t, nil, "create", "namespace", namespace)
	whole := err == nil
	if !whole {
		require.Contains(t, output, `the server could not find the requested resource`, "the server of custom resources alone has no namespaces")
	}
	// Mixer waits for some kinds, not for any resource.
	for _, version := range mesh.Versions {
		o.mixers = append(o.mixers, meshtest.LenientMixer(t, version, mesh.MixerOptions{ConfigStoreURL: "k8s://" + c.kubeconfig, WithoutManifest: true}))
	}
	binaries, err := mesh.FindBinaries()
	require.NoError(t, err)
	manifest, err := binaries.Manifest(t.Context(), "1.7.8")
	require.NoError(t, err)
	c.applied(t, string(manifest))
	bundle := read(t, "operatorconfig/tollgate.yaml")
	c.applied(t, bundle)
	o.eventually(t, nobodys, "wrong")
	require.Zero(t, asked(t, o.tollgate))

	example := strings.ReplaceAll(read(t, "operatorconfig/examples/auth-header.yaml"), exampleAddress, o.tollgate.Addr)
	require.Contains(t, example, o.tollgate.Addr)
	t.Run("what is shipped and shown", func(t *testing.T) {
		for name, manifests := range shown(t) {
			if !whole && strings.HasSuffix(name, ".configmap.yaml") {
				continue
			}
			output, err := c.run(t, []byte(manifests), "apply", "--validate=strict", "--dry-run=server", "-f", "-")
			assert.NoError(t, err, "%s: %s", name, output)
		}
	})
	t.Run("apply", func(t *testing.T) {
		c.applied(t, example)
		o.eventually(t, denied, "wrong")
		o.eventually(t, allowed, "abc")
		assert.Positive(t, asked(t, o.tollgate))
	})
	t.Run("apply once more", func(t *testing.T) {
		for line := range strings.Lines(c.must(t, bundle+"\n---\n"+example, "apply", "--validate=strict", "-f", "-")) {
			assert.Contains(t, line, " unchanged")
		}
	})
	changed := strings.Replace(example, `auth_key: "abc"`, `auth_key: "xyz"`, 1)
	t.Run("change the handler", func(t *testing.T) {
		c.applied(t, changed)
		o.eventually(t, denied, "abc")
		o.eventually(t, allowed, "xyz")
		o.eventually(t, denied, "wrong")
	})
	t.Run("mistakes that the server finds", func(t *testing.T) {
		for right, mistake := range map[string]struct{ wrong, complaint string }{
			"timeout: 500ms": {"time_out: 500ms", `unknown field "spec.connection.time_out"`},
			"  actions:\n":   {"  action:\n", `unknown field "spec.action"`},
			"match: (context.reporter.kind | \"\") == \"inbound\"": {"match: true", `spec.match in body must be of type string: "boolean"`},
			// Mixer takes its fields in both spellings, the definitions have this one alone.
			"timeout: 500ms\n": {"authentication: {tls: {caCertificates: /ca.crt, token_path: /token, auth_header: BEARER}}\n", `unknown field "spec.connection.authentication.tls.token_path"`},
		} {
			require.Contains(t, changed, right)
			output, err := c.apply(t, []byte(strings.Replace(changed, right, mistake.wrong, 1)))
			require.Error(t, err, mistake.wrong)
			assert.Contains(t, output, mistake.complaint)
		}
		o.eventually(t, allowed, "xyz")
	})
	// kubectl is strict by default, and others that apply are not: the server then drops what it does not know. Here that takes the token's path
	// from the handler; Mixer drops a handler with TLS and without a token; and everything passes.
	t.Run("what the server drops where nobody is strict", func(t *testing.T) {
		snake := strings.Replace(example, "timeout: 500ms\n", "authentication: {tls: {caCertificates: /ca.crt, token_path: /token}}\n", 1)
		c.must(t, snake, "apply", "--validate=ignore", "-f", "-")
		assert.JSONEq(t, `{"caCertificates":"/ca.crt"}`,
			c.must(t, "", "get", "handler.config.istio.io", "auth-header", "-n", namespace, "-o", "jsonpath={.spec.connection.authentication.tls}"))
		o.eventually(t, nobodys, "wrong")
		c.applied(t, example)
		o.eventually(t, allowed, "abc")
	})
	// What is below params is in no definition, so nobody looks at it but Mixer, which drops the handler and lets everything pass.
	t.Run("a mistake that nobody finds", func(t *testing.T) {
		c.applied(t, strings.Replace(example, "auth_key:", "auth_kye:", 1))
		o.eventually(t, nobodys, "wrong")
		c.applied(t, example)
		o.eventually(t, denied, "wrong")
		o.eventually(t, allowed, "abc")
	})
	t.Run("delete the rule", func(t *testing.T) {
		c.must(t, "", "delete", "rule.config.istio.io", "auth-header", "-n", namespace)
		o.eventually(t, nobodys, "wrong")
		before := asked(t, o.tollgate)
		for range 3 {
			o.eventually(t, nobodys, "wrong")
		}
		assert.Equal(t, before, asked(t, o.tollgate), "Tollgate is still asked")
		c.applied(t, example)
		o.eventually(t, denied, "wrong")
	})
	t.Run("delete one template", func(t *testing.T) {
		// One that the example does not use. Mixer drops the adapter all the same.
		c.must(t, "", "delete", "template.config.istio.io", "tracespan", "-n", namespace)
		o.eventually(t, nobodys, "wrong")
		c.applied(t, bundle)
		o.eventually(t, denied, "wrong")
		o.eventually(t, allowed, "abc")
	})
	t.Run("take everything away in the reverse order", func(t *testing.T) {
		c.must(t, "", "delete", "rules.config.istio.io,instances.config.istio.io,handlers.config.istio.io", "--all", "-n", namespace)
		o.eventually(t, nobodys, "wrong")
		c.must(t, bundle, "delete", "-f", "-")
		assert.Contains(t, c.must(t, "", "get", "adapters.config.istio.io,templates.config.istio.io", "-n", namespace), "No resources found")
		o.eventually(t, nobodys, "wrong")
	})
}

// shown returns all resources that operators of Mixer are shown: the examples, and every handler of the guides.
func shown(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	examples, err := filepath.Glob(root + "/operatorconfig/examples/*.yaml")
	require.NoError(t, err)
	for _, path := range examples {
		if !strings.HasSuffix(path, ".settings.yaml") {
			all[filepath.Base(path)] = read(t, "operatorconfig/examples/"+filepath.Base(path))
		}
	}
	require.NotEmpty(t, all)
	guides, err := filepath.Glob(root + "/docs/*.md")
	require.NoError(t, err)
	connections := 0
	for _, path := range guides {
		for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(read(t, "docs/"+filepath.Base(path)), -1) {
			for text := range strings.SplitSeq("\n"+block[1], "\n---") {
				var spec struct {
					Kind       string         `json:"kind"`
					Connection map[string]any `json:"connection"`
				}
				require.NoError(t, yaml.Unmarshal([]byte(text), &spec), text)
				if spec.Kind == "" && spec.Connection != nil { // the part of a handler that the guide is about
					text = string(document(t, object{Object: map[string]any{
						"apiVersion": "config.istio.io/v1alpha2", "kind": "handler", "metadata": map[string]any{"name": "shown", "namespace": namespace},
						"spec": map[string]any{"adapter": "tollgate", "connection": spec.Connection},
					}}))
				} else if !strings.Contains(text, "kind: handler\n") {
					continue
				}
				connections++
				all[fmt.Sprintf("%s, handler %d", filepath.Base(path), connections)] = text
			}
		}
	}
	assert.GreaterOrEqual(t, connections, 7)
	return all
}

// kubeconfig writes a kubeconfig for a server on this machine and returns its path.
func kubeconfig(t *testing.T, directory, port, token string) string {
	t.Helper()
	path := directory + "/kubeconfig"
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:%s", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: admin, namespace: %s}}]
current-context: test
`, port, token, namespace), 0o600))
	return path
}
