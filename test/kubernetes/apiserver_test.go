package kubernetes

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
)

// patience bounds a test that fails and is no measure.
const patience = 2 * time.Minute

// cluster is a real API server with nothing behind it: what it takes is validated and defaulted as in a cluster, and not run.
type cluster struct {
	kubectl, kubeconfig string
}

// startCluster starts etcd and an API server on this machine, and ends them with the test.
func startCluster(t *testing.T) cluster {
	t.Helper()
	apiserver, kubectl := program(t, "kube-apiserver"), program(t, "kubectl")
	directory := t.TempDir()
	store, secure := startEtcd(t, directory), freePort(t)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	encoded, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	signing := directory + "/accounts.key"
	require.NoError(t, os.WriteFile(signing, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}), 0o600))
	const token = "admin-of-this-test"
	require.NoError(t, os.WriteFile(directory+"/tokens.csv", []byte(token+",admin,admin,system:masters\n"), 0o600))
	start(t, directory, apiserver, "--etcd-servers", store, "--bind-address=127.0.0.1", "--secure-port", secure,
		"--cert-dir", directory+"/certificates", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file", signing,
		"--service-account-signing-key-file", signing, "--token-auth-file", directory+"/tokens.csv",
		"--authorization-mode=RBAC", "--anonymous-auth=true")
	awaitReady(t, "https://127.0.0.1:"+secure+"/readyz")
	return cluster{kubectl: kubectl, kubeconfig: kubeconfig(t, directory, secure, token)}
}

// startEtcd starts etcd and returns its URL.
func startEtcd(t *testing.T, directory string) string {
	t.Helper()
	etcd, peers := "http://127.0.0.1:"+freePort(t), "http://127.0.0.1:"+freePort(t)
	start(t, directory, program(t, "etcd"), "--data-dir", directory+"/etcd",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers)
	return etcd
}

// start runs a program until the test ends. What it says is shown if the test fails.
func start(t *testing.T, directory, path string, arguments ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(directory, filepath.Base(path)+".log"))
	require.NoError(t, err)
	command := exec.Command(path, arguments...)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		_ = log.Close()
		if t.Failed() {
			content, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%s", filepath.Base(path), content[max(0, len(content)-4000):])
		}
	})
}

// freePort returns one below those that Linux gives to outgoing connections, so that no client takes it meanwhile.
func freePort(t *testing.T) string {
	t.Helper()
	port, err := mesh.FreePort()
	require.NoError(t, err)
	return strconv.Itoa(port)
}

func awaitReady(t *testing.T, url string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	client := http.Client{Transport: transport, Timeout: 5 * time.Second}
	defer transport.CloseIdleConnections()
	require.Eventually(t, func() bool {
		response, err := client.Get(url)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	}, patience, 100*time.Millisecond)
}

// run runs kubectl and returns all that it says.
func (c cluster) run(t *testing.T, input []byte, arguments ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, c.kubectl, append([]string{"--kubeconfig", c.kubeconfig}, arguments...)...)
	command.Stdin = bytes.NewReader(input)
	output, err := command.CombinedOutput()
	return string(output), err
}

// apply applies manifests as an operator would, with the server's strict validation: fields that it does not know are errors.
func (c cluster) apply(t *testing.T, manifests []byte) (string, error) {
	t.Helper()
	return c.run(t, manifests, "apply", "--validate=strict", "-f", "-")
}

// TestAPIServer applies all that is shipped to a real API server, in a namespace that takes restricted pods only.
func TestAPIServer(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	output, err := c.apply(t, []byte(`
apiVersion: v1
kind: Namespace
metadata:
  name: istio-system
  labels: {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}
`))
	require.NoError(t, err, output)
	for _, v := range variants(t) {
		t.Run(v.name, func(t *testing.T) {
			// The operator's kinds are not a cluster's own; TestVariants decodes them strictly.
			all := slices.DeleteFunc(v.render(t), func(o object) bool { return strings.HasPrefix(o.GetAPIVersion(), "monitoring.coreos.com/") })
			output, err := c.apply(t, document(t, all...))
			require.NoError(t, err, output)
			assert.NotContains(t, output, "Warning", "pods that the namespace does not take, or fields that go away")
			output, err = c.apply(t, document(t, all...))
			require.NoError(t, err, "applied once more: %s", output)
			output, err = c.run(t, document(t, pod(t, all)), "create", "--validate=strict", "--dry-run=server", "-f", "-")
			require.NoError(t, err, output)
			output, err = c.run(t, document(t, all...), "delete", "--wait=false", "-f", "-")
			require.NoError(t, err, output)
		})
	}

	base := kustomized(t, "base")
	t.Run("kustomize by kubectl", func(t *testing.T) {
		output, err := c.run(t, nil, "apply", "--validate=strict", "-k", manifests+"/base")
		require.NoError(t, err, output)
	})
	t.Run("the account may nothing", func(t *testing.T) {
		for _, question := range []string{"get secrets", "list pods", "create pods", "get configmaps"} {
			arguments := append([]string{"auth", "can-i", "--as=system:serviceaccount:istio-system:tollgate"}, strings.Fields(question)...)
			output, err := c.run(t, nil, arguments...)
			require.Error(t, err)
			assert.Equal(t, "no\n", output, question)
		}
	})
	// What would be seen if something were wrong.
	t.Run("an unknown field is refused", func(t *testing.T) {
		wrong := base[slices.IndexFunc(base, func(o object) bool { return o.GetKind() == "Deployment" })].DeepCopy()
		require.NoError(t, unstructured.SetNestedField(wrong.Object, int64(1), "spec", "minReadySecond"))
		output, err := c.apply(t, document(t, *wrong))
		require.Error(t, err)
		assert.Contains(t, output, `unknown field "spec.minReadySecond"`)
	})
	t.Run("a pod with privileges is refused", func(t *testing.T) {
		wrong := pod(t, base)
		require.NoError(t, unstructured.SetNestedField(wrong.Object, false, "spec", "securityContext", "runAsNonRoot"))
		output, err := c.run(t, document(t, wrong), "create", "--dry-run=server", "-f", "-")
		require.Error(t, err)
		assert.Contains(t, output, `violates PodSecurity "restricted:latest"`)
	})
}

// pod returns a pod as the workload would make it.
func pod(t *testing.T, all []object) object {
	t.Helper()
	i := slices.IndexFunc(all, func(o object) bool { return o.GetKind() == "Deployment" || o.GetKind() == "StatefulSet" })
	require.GreaterOrEqual(t, i, 0)
	template, found, err := unstructured.NestedMap(all[i].Object, "spec", "template")
	require.NoError(t, err)
	require.True(t, found)
	o := object{Object: template}
	o.SetAPIVersion("v1")
	o.SetKind("Pod")
	o.SetName("tollgate-0")
	o.SetNamespace(namespace)
	if all[i].GetKind() == "StatefulSet" { // the controller mounts the claim under the template's name
		volumes, _, err := unstructured.NestedSlice(o.Object, "spec", "volumes")
		require.NoError(t, err)
		claim := map[string]any{"name": "spool", "persistentVolumeClaim": map[string]any{"claimName": "spool-tollgate-0"}}
		require.NoError(t, unstructured.SetNestedSlice(o.Object, append(volumes, claim), "spec", "volumes"))
	}
	return o
}
