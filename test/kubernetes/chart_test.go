package kubernetes

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func TestChartLints(t *testing.T) {
	for _, values := range []string{"", persistent, monitored} {
		given, err := chartutil.ReadValues([]byte(values))
		require.NoError(t, err)
		for _, message := range lint.All(chartPath, given, namespace, true).Messages {
			assert.Contains(t, message.Err.Error(), "icon is recommended")
		}
	}
}

// TestChartEqualsManifests holds the two forms equal in meaning: what somebody mends in one is mended in the other.
func TestChartEqualsManifests(t *testing.T) {
	for folder, values := range map[string]string{
		"base":                                 "",
		"overlays/statefulset-spool":           persistent,
		"overlays/statefulset-spool-openshift": openshift,
		"overlays/servicemonitor":              monitored,
		"overlays/tls":                         encrypted,
		"overlays/mtls":                        mutual,
	} {
		t.Run(folder, func(t *testing.T) {
			expected := map[string]any{}
			for _, o := range kustomized(t, folder) {
				if o.GetKind() != "PrometheusRule" { // which the chart does not have
					expected[o.GetKind()+" "+plainName(o)] = meaning(t, o)
				}
			}
			actual := map[string]any{}
			for _, o := range charted(t, values) {
				actual[o.GetKind()+" "+plainName(o)] = meaning(t, o)
			}
			assert.Equal(t, expected, actual)
		})
	}
}

// plainName is an object's name without the hash that kustomize appends.
func plainName(o object) string {
	if o.GetKind() == "ConfigMap" {
		return "tollgate-settings"
	}
	return o.GetName()
}

// meaning returns an object without what the two forms tell apart on purpose: Helm's labels, and how a change of settings restarts pods.
func meaning(t *testing.T, o object) map[string]any {
	t.Helper()
	for _, label := range []string{"helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/instance"} {
		unstructured.RemoveNestedField(o.Object, "metadata", "labels", label)
	}
	unstructured.RemoveNestedField(o.Object, "spec", "template", "metadata", "annotations", "checksum/settings")
	o.SetName(plainName(o))
	if text, found, _ := unstructured.NestedString(o.Object, "data", "settings.yaml"); found {
		parsed, err := settings.Parse([]byte(text))
		require.NoError(t, err)
		o.Object["data"] = parsed
		return o.Object
	}
	// Typed and back: two ways to write one quantity are one.
	content, err := json.Marshal(typed(t, o))
	require.NoError(t, err)
	text := strings.NewReplacer(plainReference(o)...).Replace(string(content))
	var plain map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &plain))
	return plain
}

// plainReference replaces the reference to the hashed name.
func plainReference(o object) []string {
	volumes, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "volumes")
	for _, v := range volumes {
		if name, found, _ := unstructured.NestedString(v.(map[string]any), "configMap", "name"); found {
			return []string{`"` + name + `"`, `"tollgate-settings"`}
		}
	}
	return nil
}

func TestChartValues(t *testing.T) {
	d := deployed(t, charted(t, everything))
	pod := d.template.Spec
	assert.Equal(t, "registry.example.com:5000/mesh/tollgate:1.2.3", pod.Containers[0].Image)
	assert.Equal(t, "1.2.3", d.template.Labels["version"])
	assert.Equal(t, int64(66+20+90+5), *pod.TerminationGracePeriodSeconds, "drain rounded up, timeout, flush, and five")
	assert.Equal(t, int32(120+30), pod.Containers[0].StartupProbe.FailureThreshold, "readiness.source_wait, and half a minute")
	assert.Equal(t, "partner-keys", volume(t, pod, "secrets").Secret.SecretName)
	assert.Equal(t, "kafka", volume(t, pod, "kafka").Secret.SecretName)
	assert.Empty(t, d.autoscalers)
	assert.Equal(t, "true", d.template.Annotations["sidecar.istio.io/inject"])
	assert.Equal(t, "prometheus", d.monitors[0].Labels["release"])
	assert.Equal(t, "system-cluster-critical", pod.PriorityClassName)

	digest := "sha256:" + strings.Repeat("a1", 32)
	pod = deployed(t, charted(t, "image: {tag: 0.1.0}")).template.Spec
	assert.Equal(t, "tollgate:0.1.0", pod.Containers[0].Image)
	for _, o := range charted(t, "image: {digest: '"+digest+"'}") {
		if o.GetKind() == "Deployment" {
			assert.Contains(t, string(document(t, o)), "image: tollgate@"+digest)
		}
	}
}

// TestChartRestarts: settings are read once, at start, so a change of them has to change the pods.
func TestChartRestarts(t *testing.T) {
	checksum := func(values string) string {
		return deployed(t, charted(t, values)).template.Annotations["checksum/settings"]
	}
	assert.Equal(t, checksum(""), checksum("replicas: 4"))
	assert.NotEqual(t, checksum(""), checksum("settings: {log: {level: debug}}"))
}

func TestChartRefuses(t *testing.T) {
	for name, values := range map[string]string{
		"a key that it does not know":     "replicaCount: 3",
		"the tag latest":                  "image: {tag: latest}",
		"a tag that is no label":          "image: {tag: -x}",
		"a digest of another kind":        "image: {digest: md5:00}",
		"no limit of memory":              "resources: {limits: null}",
		"another port":                    "settings: {listen: ':8080'}",
		"a duration without a unit":       "settings: {shutdown: {drain: '35'}}",
		"a wait without a unit":           "settings: {readiness: {source_wait: 30}}",
		"a spool outside of its volume":   "settings: {reports: {directory: /tmp}}",
		"no caller, which is everybody":   "networkPolicy: {callers: []}",
		"no replicas":                     "replicas: 0",
		"a limit of Go's of another form": "goMemoryLimit: 450Mi",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := renderChart(t, values)
			assert.ErrorContains(t, err, "values don't meet the specifications of the schema")
		})
	}
}

func TestChartNotes(t *testing.T) {
	notes := func(values string) string {
		files, err := renderChart(t, values)
		require.NoError(t, err)
		return files["tollgate/templates/NOTES.txt"]
	}
	assert.Contains(t, notes(""), "dns:///tollgate.istio-system.svc.cluster.local:44225")
	assert.Contains(t, notes(""), "within 10s of a pod's end goes with the pod")
	assert.NotContains(t, notes(persistent), "goes with the pod")
	assert.NotContains(t, notes(""), "every pod may call")
	assert.Contains(t, notes(""), "not encrypted")
	assert.NotContains(t, notes(encrypted), "not encrypted")
	assert.NotContains(t, notes(encrypted), "everybody may call")
	assert.NotContains(t, notes(mutual), "everybody may call")
	assert.Contains(t, notes("tls: {enabled: true}"), "everybody may call")
	assert.Contains(t, notes("networkPolicy: {enabled: false}"), "every pod may call")
}
