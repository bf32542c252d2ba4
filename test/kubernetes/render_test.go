package kubernetes

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// object is one rendered manifest.
type object = unstructured.Unstructured

// kustomized returns what a folder of operatorconfig/kubernetes renders to.
func kustomized(t *testing.T, folder string) []object {
	t.Helper()
	return kustomizedIn(t, manifests+"/"+folder)
}

func kustomizedIn(t *testing.T, directory string) []object {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directory)
	require.NoError(t, err)
	text, err := resources.AsYaml()
	require.NoError(t, err)
	return objects(t, string(text))
}

// overlay returns a folder with this kustomization, in which %s stands for operatorconfig/kubernetes.
func overlay(t *testing.T, kustomization string) string {
	t.Helper()
	directory := t.TempDir()
	target, err := filepath.Abs(manifests)
	require.NoError(t, err)
	relative, err := filepath.Rel(directory, target)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(directory+"/kustomization.yaml", fmt.Appendf(nil, kustomization, relative), 0o600))
	return directory
}

// charted returns what the chart renders to with these values, in YAML, over its own.
func charted(t *testing.T, values string) []object {
	t.Helper()
	files, err := renderChart(t, values)
	require.NoError(t, err)
	var all []object
	for name, text := range files {
		if strings.HasSuffix(name, ".yaml") {
			all = append(all, objects(t, text)...)
		}
	}
	sorted(all)
	return all
}

// renderChart returns the rendered files by name, or what is wrong with the values.
func renderChart(t *testing.T, values string) (map[string]string, error) {
	t.Helper()
	chart, err := loader.Load(chartPath)
	require.NoError(t, err)
	given, err := chartutil.ReadValues([]byte(values))
	require.NoError(t, err)
	all, err := chartutil.ToRenderValues(chart, given, chartutil.ReleaseOptions{Name: "tollgate", Namespace: namespace, IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	return engine.Engine{Strict: true}.Render(chart, all)
}

// objects returns the documents of a YAML text, without the empty ones.
func objects(t *testing.T, text string) []object {
	t.Helper()
	var all []object
	for document := range strings.SplitSeq("\n"+text, "\n---") {
		json, err := yaml.YAMLToJSONStrict([]byte(document))
		require.NoError(t, err, document)
		if string(json) == "null" {
			continue
		}
		var o object
		require.NoError(t, o.UnmarshalJSON(json))
		all = append(all, o)
	}
	sorted(all)
	return all
}

func sorted(all []object) {
	slices.SortFunc(all, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetName(), b.GetName()))
	})
}

// variant is one way to deploy.
type variant struct {
	name   string
	render func(*testing.T) []object
	// trial is not for anybody's traffic: it ends at once.
	trial bool
}

// variants returns everything that is shipped: the base, every overlay, and the chart in its forms.
func variants(t *testing.T) []variant {
	t.Helper()
	all := []variant{{name: "base", render: func(t *testing.T) []object { return kustomized(t, "base") }}}
	overlays, err := os.ReadDir(manifests + "/overlays")
	require.NoError(t, err)
	require.NotEmpty(t, overlays)
	for _, overlay := range overlays {
		all = append(all, variant{
			name:   overlay.Name(),
			render: func(t *testing.T) []object { return kustomized(t, "overlays/"+overlay.Name()) },
			trial:  overlay.Name() == "plaintext-dev",
		})
	}
	all = append(all, variant{name: "statefulset-spool with every component", render: func(t *testing.T) []object {
		return kustomizedIn(t, overlay(t, "resources: [%s/overlays/statefulset-spool]\ncomponents: [%[1]s/components/tls, %[1]s/components/servicemonitor]\n"))
	}}, variant{name: "files of the guide", render: func(t *testing.T) []object {
		directory := overlay(t, strings.Replace(ofGuide(t, "kustomization.yaml"), "path/to/operatorconfig/kubernetes", "%s", 1))
		settings := read(t, "operatorconfig/kubernetes/components/tls/settings.yaml") + ofGuide(t, "settings.yaml, in part")
		require.NoError(t, os.WriteFile(directory+"/settings.yaml", []byte(settings), 0o600))
		return kustomizedIn(t, directory)
	}})
	for name, values := range map[string]string{
		"chart, files of the guide":   ofGuide(t, "values.yaml, in part"),
		"chart":                       "",
		"chart, persistent":           persistent,
		"chart, persistent openshift": openshift,
		"chart, monitored":            monitored,
		"chart, tls":                  encrypted,
		"chart, mutual tls":           mutual,
		"chart, everything set":       everything,
	} {
		all = append(all, variant{name: name, render: func(t *testing.T) []object { return charted(t, values) }})
	}
	return all
}

// ofGuide returns a block of docs/kubernetes.md by the comment that it begins with.
func ofGuide(t *testing.T, title string) string {
	t.Helper()
	_, block, found := strings.Cut(read(t, "docs/kubernetes.md"), "```yaml\n# "+title+"\n")
	require.True(t, found, title)
	block, _, _ = strings.Cut(block, "```")
	return block
}

// Values of the chart.
const (
	persistent = "spool: {persistent: {enabled: true}}"
	openshift  = "spool: {persistent: {enabled: true, fsGroup: null}}"
	encrypted  = "{tls: {enabled: true}, settings: {callers: {mixer: {bearer: mixer-token}}}}"
	mutual     = "{tls: {enabled: true}, settings: {tls: {client_ca: /etc/tollgate/tls/ca.crt, client_names: ['spiffe://cluster.local/ns/istio-system/sa/istio-mixer-service-account']}}}"
	monitored  = "serviceMonitor: {enabled: true}"
	everything = `
image: {repository: registry.example.com:5000/mesh/tollgate, tag: 1.2.3, pullPolicy: Always}
imagePullSecrets: [{name: registry}]
settings:
  reports: {flush: 1m30s}
  shutdown: {drain: 1m5.5s, timeout: 20s}
  readiness: {source_wait: 2m}
secretName: partner-keys
extraVolumes: [{name: kafka, secret: {secretName: kafka}}]
extraVolumeMounts: [{name: kafka, mountPath: /etc/tollgate/kafka, readOnly: true}]
autoscaling: {enabled: false}
replicas: 5
resources: {limits: {memory: 1Gi}}
goMemoryLimit: 900MiB
serviceMonitor: {enabled: true, labels: {release: prometheus}}
podAnnotations: {sidecar.istio.io/inject: "true"}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: dedicated, operator: Exists}]
priorityClassName: system-cluster-critical
`
)

// document returns an object as YAML.
func document(t *testing.T, all ...object) []byte {
	t.Helper()
	var text bytes.Buffer
	for _, o := range all {
		content, err := yaml.Marshal(o.Object)
		require.NoError(t, err)
		text.WriteString("---\n")
		text.Write(content)
	}
	return text.Bytes()
}
