package kubernetes

import (
	"maps"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

// lookUp is how long Mixer's gRPC waits at least between two look-ups of a name.
const lookUp = 30 * time.Second

// deployment is what a variant renders to, read strictly.
type deployment struct {
	kind        string
	spec        meta.Object
	selector    *meta.LabelSelector
	minReady    time.Duration
	template    core.PodTemplateSpec
	claims      []core.PersistentVolumeClaim
	rolling     *apps.RollingUpdateDeployment
	settings    settings.Settings
	services    []*core.Service
	accounts    []*core.ServiceAccount
	autoscalers []*autoscaling.HorizontalPodAutoscaler
	budgets     []*policy.PodDisruptionBudget
	policies    []*networking.NetworkPolicy
	monitors    []*monitoring.ServiceMonitor
	rules       []*monitoring.PrometheusRule
}

// typed decodes strictly: a field that the API does not know is an error.
func typed(t *testing.T, o object) runtime.Object {
	t.Helper()
	known := runtime.NewScheme()
	require.NoError(t, scheme.AddToScheme(known))
	require.NoError(t, monitoring.AddToScheme(known))
	decoder := serializer.NewCodecFactory(known, serializer.EnableStrict).UniversalDeserializer()
	decoded, _, err := decoder.Decode(document(t, o), nil, nil)
	require.NoError(t, err, "%s %s", o.GetKind(), o.GetName())
	return decoded
}

// deployed reads all that a variant renders to; a kind that no test looks at is an error.
func deployed(t *testing.T, all []object) deployment {
	t.Helper()
	var d deployment
	var maps []*core.ConfigMap
	for _, o := range all {
		assert.Equal(t, namespace, o.GetNamespace(), "%s %s", o.GetKind(), o.GetName())
		assert.Equal(t, "tollgate", o.GetLabels()["app"], "%s %s", o.GetKind(), o.GetName())
		switch decoded := typed(t, o).(type) {
		case *apps.Deployment:
			require.Empty(t, d.kind, "one workload")
			d.kind, d.spec, d.selector, d.template = decoded.Kind, decoded, decoded.Spec.Selector, decoded.Spec.Template
			d.minReady, d.rolling = time.Duration(decoded.Spec.MinReadySeconds)*time.Second, decoded.Spec.Strategy.RollingUpdate
		case *apps.StatefulSet:
			require.Empty(t, d.kind, "one workload")
			d.kind, d.spec, d.selector, d.template = decoded.Kind, decoded, decoded.Spec.Selector, decoded.Spec.Template
			d.minReady, d.claims = time.Duration(decoded.Spec.MinReadySeconds)*time.Second, decoded.Spec.VolumeClaimTemplates
			assert.Equal(t, "tollgate", decoded.Spec.ServiceName)
			assert.Equal(t, apps.RetainPersistentVolumeClaimRetentionPolicyType, decoded.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled)
		case *core.ConfigMap:
			maps = append(maps, decoded)
		case *core.Service:
			d.services = append(d.services, decoded)
		case *core.ServiceAccount:
			d.accounts = append(d.accounts, decoded)
		case *autoscaling.HorizontalPodAutoscaler:
			d.autoscalers = append(d.autoscalers, decoded)
		case *policy.PodDisruptionBudget:
			d.budgets = append(d.budgets, decoded)
		case *networking.NetworkPolicy:
			d.policies = append(d.policies, decoded)
		case *monitoring.ServiceMonitor:
			d.monitors = append(d.monitors, decoded)
		case *monitoring.PrometheusRule:
			d.rules = append(d.rules, decoded)
		default:
			require.Failf(t, "unexpected kind", "%s %s", o.GetKind(), o.GetName())
		}
	}
	require.NotEmpty(t, d.kind, "a workload")
	require.Len(t, maps, 1)
	require.Len(t, maps[0].Data, 1)
	var err error
	d.settings, err = settings.Parse([]byte(maps[0].Data["settings.yaml"]))
	require.NoError(t, err)
	require.NoError(t, d.settings.Validate())
	assert.Equal(t, maps[0].Name, volume(t, d.template.Spec, "settings").ConfigMap.Name)
	return d
}

func volume(t *testing.T, pod core.PodSpec, name string) core.Volume {
	t.Helper()
	i := slices.IndexFunc(pod.Volumes, func(v core.Volume) bool { return v.Name == name })
	require.GreaterOrEqual(t, i, 0, "volume %s", name)
	return pod.Volumes[i]
}

func TestVariants(t *testing.T) {
	for _, v := range variants(t) {
		t.Run(v.name, func(t *testing.T) {
			d := deployed(t, v.render(t))
			t.Run("is restricted", d.restricted)
			t.Run("has resources", d.hasResources)
			t.Run("is probed", d.isProbed)
			t.Run("names its ports", d.namesPorts)
			t.Run("mounts what the settings name", d.mounts)
			t.Run("has room for its spool", d.hasRoom)
			t.Run("has rights to nothing", d.hasNoRights)
			t.Run("is selected by what is meant for it", d.isSelected)
			t.Run("keeps its records in one form", d.keepsRecords)
			if !v.trial {
				t.Run("ends in order", d.endsInOrder)
				t.Run("lets in who may call", d.letsIn)
				assert.Len(t, d.budgets, 1)
			}
		})
	}
}

// restricted: no user but the image's or one that the cluster assigns, no privileges, nothing to write to but volumes.
func (d deployment) restricted(t *testing.T) {
	pod := d.template.Spec
	assert.False(t, pod.HostNetwork || pod.HostPID || pod.HostIPC)
	assert.True(t, *pod.SecurityContext.RunAsNonRoot)
	assert.Nil(t, pod.SecurityContext.RunAsUser, "OpenShift assigns users and refuses others")
	assert.Nil(t, pod.SecurityContext.RunAsGroup)
	assert.Equal(t, core.SeccompProfileTypeRuntimeDefault, pod.SecurityContext.SeccompProfile.Type)
	if d.kind == "Deployment" {
		assert.Nil(t, pod.SecurityContext.FSGroup)
	}
	require.Empty(t, pod.InitContainers)
	require.Len(t, pod.Containers, 1)
	for _, c := range pod.Containers {
		assert.Nil(t, c.SecurityContext.RunAsUser)
		assert.Nil(t, c.SecurityContext.RunAsNonRoot, "nothing in place of the pod's")
		assert.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
		assert.False(t, *c.SecurityContext.Privileged)
		assert.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
		assert.Equal(t, []core.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop)
		assert.Empty(t, c.SecurityContext.Capabilities.Add)
	}
	for _, v := range pod.Volumes {
		assert.Nil(t, v.HostPath, v.Name)
	}
}

func (d deployment) hasResources(t *testing.T) {
	c := d.template.Spec.Containers[0]
	assert.False(t, c.Resources.Requests.Cpu().IsZero())
	assert.False(t, c.Resources.Requests.Memory().IsZero())
	assert.True(t, c.Resources.Limits.Cpu().IsZero(), "throttled, checks miss their deadlines")
	limit := c.Resources.Limits.Memory()
	assert.False(t, limit.IsZero())
	assert.LessOrEqual(t, c.Resources.Requests.Memory().Value(), limit.Value())
	require.Len(t, c.Env, 1)
	assert.Equal(t, "GOMEMLIMIT", c.Env[0].Name)
	soft := resource.MustParse(strings.TrimSuffix(c.Env[0].Value, "B"))
	assert.Less(t, soft.Value(), limit.Value())
	assert.Greater(t, soft.Value(), limit.Value()/2)
}

func (d deployment) isProbed(t *testing.T) {
	c := d.template.Spec.Containers[0]
	assert.Equal(t, []string{"serve", "--settings", "/etc/tollgate/settings/settings.yaml"}, c.Args)
	probe := []string{"/tollgate", "healthcheck"}
	if d.settings.TLS.Enabled() {
		probe = append(probe, "--tls-unverified")
	}
	assert.Equal(t, probe, c.StartupProbe.Exec.Command)
	assert.GreaterOrEqual(t, time.Duration(c.StartupProbe.FailureThreshold*c.StartupProbe.PeriodSeconds)*time.Second, d.settings.Readiness.SourceWait+30*time.Second,
		"a start is not ended while it waits for sources")
	assert.Equal(t, &core.HTTPGetAction{Path: "/readyz", Port: intstr.FromString("http-admin")}, c.ReadinessProbe.HTTPGet)
	assert.Equal(t, &core.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http-admin")}, c.LivenessProbe.HTTPGet)
}

// namesPorts: Istio takes a port's protocol from its name in the service, wants container ports declared, and one service a port.
func (d deployment) namesPorts(t *testing.T) {
	ports := map[string]int32{}
	for _, p := range d.template.Spec.Containers[0].Ports {
		assert.Regexp(t, `^(grpc|http)-`, p.Name)
		ports[p.Name] = p.ContainerPort
	}
	assert.Equal(t, map[string]int32{"grpc-mixer": port(t, d.settings.Listen), "http-admin": port(t, d.settings.Admin)}, ports)
	served := map[string]bool{}
	for _, s := range d.services {
		require.Len(t, s.Spec.Ports, 1, s.Name)
		p := s.Spec.Ports[0]
		assert.Equal(t, core.ClusterIPNone, s.Spec.ClusterIP, "a headless service")
		assert.Equal(t, p.Name, p.TargetPort.StrVal)
		assert.Equal(t, ports[p.Name], p.Port, p.Name)
		assert.False(t, served[p.Name], "one service a port")
		served[p.Name] = true
		assert.True(t, matches(t, meta.SetAsLabelSelector(s.Spec.Selector), d.template.Labels))
		assert.Equal(t, p.Name == "http-admin", s.Spec.PublishNotReadyAddresses, "%s: Mixer must not be led to pods that are not ready", s.Name)
	}
	assert.True(t, served["grpc-mixer"])
}

func port(t *testing.T, address string) int32 {
	t.Helper()
	host, text, err := net.SplitHostPort(address)
	require.NoError(t, err)
	assert.Empty(t, host, "probes and callers come from outside, by IPv4 or IPv6")
	number, err := strconv.ParseInt(text, 10, 32)
	require.NoError(t, err)
	return int32(number)
}

// mounts: the settings' paths are mounted, and only the spool can be written to.
func (d deployment) mounts(t *testing.T) {
	readOnly := map[string]bool{}
	for _, m := range d.template.Spec.Containers[0].VolumeMounts {
		readOnly[m.MountPath] = m.ReadOnly
	}
	assert.True(t, readOnly["/etc/tollgate/settings"])
	assert.True(t, readOnly[d.settings.Secrets.Directory], "secrets.directory")
	assert.True(t, *volume(t, d.template.Spec, "secrets").Secret.Optional, "secrets may come later than the pod")
	if d.settings.TLS.Enabled() {
		assert.True(t, readOnly[path.Dir(d.settings.TLS.Cert)], "tls.cert")
		assert.True(t, readOnly[path.Dir(d.settings.TLS.Key)], "tls.key")
		assert.Equal(t, "44225", d.template.Annotations["traffic.sidecar.istio.io/excludeInboundPorts"])
		assert.Nil(t, volume(t, d.template.Spec, "tls").Secret.Optional, "pods wait for their certificate")
		assert.True(t, len(d.settings.Callers) > 0 || len(d.settings.TLS.ClientNames) > 0, "without a caller everybody may call")
		if ca := d.settings.TLS.ClientCA; ca != "" {
			assert.True(t, readOnly[path.Dir(ca)], "tls.client_ca")
		}
	}
	for name, source := range d.settings.Policies {
		assert.True(t, readOnly[source.Directory], "policies.%s.directory", name)
	}
	for name, users := range d.settings.Htpasswd {
		assert.True(t, readOnly[path.Dir(users.File)], "htpasswd.%s.file", name)
	}
	written := slices.DeleteFunc(slices.Collect(maps.Keys(readOnly)), func(path string) bool { return readOnly[path] })
	assert.Equal(t, []string{"/var/lib/tollgate"}, written)
	if d.settings.Reports.Directory != "" {
		assert.Equal(t, written[0], d.settings.Reports.Directory)
	}
	for name, sink := range d.settings.Reports.Sinks {
		if sink.File != nil {
			assert.Equal(t, written[0], path.Dir(sink.File.Path), name)
		}
	}
}

// hasRoom: a pod that exceeds its emptyDir is evicted, and a full volume stops reports.
func (d deployment) hasRoom(t *testing.T) {
	var queues int64
	for _, sink := range d.settings.Reports.WithDefaults().Sinks {
		queues += sink.Queue.MaxBytes
	}
	if d.kind == "StatefulSet" {
		require.Len(t, d.claims, 1)
		assert.Equal(t, "spool", d.claims[0].Name)
		assert.Greater(t, d.claims[0].Spec.Resources.Requests.Storage().Value(), queues)
		return
	}
	assert.Greater(t, volume(t, d.template.Spec, "spool").EmptyDir.SizeLimit.Value(), queues)
}

func (d deployment) hasNoRights(t *testing.T) {
	require.Len(t, d.accounts, 1)
	assert.Equal(t, d.accounts[0].Name, d.template.Spec.ServiceAccountName)
	assert.False(t, *d.accounts[0].AutomountServiceAccountToken)
	assert.False(t, *d.template.Spec.AutomountServiceAccountToken)
	for _, v := range d.template.Spec.Volumes {
		assert.Nil(t, v.Projected, v.Name)
	}
}

func (d deployment) isSelected(t *testing.T) {
	pod := d.template.Labels
	assert.Equal(t, map[string]string{"app": "tollgate"}, d.selector.MatchLabels, "a selector never changes; versions do")
	assert.True(t, matches(t, d.selector, pod))
	assert.Equal(t, "tollgate", pod["app"])
	image := d.template.Spec.Containers[0].Image
	tag := image[strings.LastIndex(image, ":")+1:]
	assert.Equal(t, tag, pod["version"], "the version is the image's")
	assert.NotEqual(t, "latest", tag)
	assert.NotContains(t, tag, "/", "an image without a tag is latest")
	for _, b := range d.budgets {
		assert.True(t, matches(t, b.Spec.Selector, pod), b.Name)
	}
	for _, p := range d.policies {
		assert.True(t, matches(t, &p.Spec.PodSelector, pod), p.Name)
	}
	require.Len(t, d.template.Spec.TopologySpreadConstraints, 2)
	for _, c := range d.template.Spec.TopologySpreadConstraints {
		assert.True(t, matches(t, c.LabelSelector, pod), c.TopologyKey)
		assert.Equal(t, core.ScheduleAnyway, c.WhenUnsatisfiable, "one more pod than nodes must not stop a rolling update")
	}
	for _, m := range d.monitors {
		watched := slices.DeleteFunc(slices.Clone(d.services), func(s *core.Service) bool { return !matches(t, &m.Spec.Selector, s.Labels) })
		require.Len(t, watched, 1)
		assert.Equal(t, watched[0].Spec.Ports[0].Name, m.Spec.Endpoints[0].Port)
		assert.Equal(t, "tollgate", watched[0].Labels[m.Spec.JobLabel], "the job that the alert rules expect")
	}
}

func matches(t *testing.T, selector *meta.LabelSelector, of map[string]string) bool {
	t.Helper()
	s, err := meta.LabelSelectorAsSelector(selector)
	require.NoError(t, err)
	return !s.Empty() && s.Matches(labels.Set(of))
}

// keepsRecords: with volumes there is no autoscaler, which would leave records behind.
func (d deployment) keepsRecords(t *testing.T) {
	if d.kind == "StatefulSet" {
		assert.Empty(t, d.autoscalers)
		return
	}
	assert.NotNil(t, volume(t, d.template.Spec, "spool").EmptyDir)
	for _, a := range d.autoscalers {
		assert.Equal(t, autoscaling.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: d.spec.GetName()}, a.Spec.ScaleTargetRef)
		assert.GreaterOrEqual(t, *a.Spec.MinReplicas, int32(2))
		assert.Nil(t, d.spec.(*apps.Deployment).Spec.Replicas, "the autoscaler has the number")
	}
}

// endsInOrder: pods overlap longer than callers need to notice, and have time for all that the settings let them do at the end.
func (d deployment) endsInOrder(t *testing.T) {
	s := d.settings
	assert.Greater(t, s.Shutdown.Drain, lookUp)
	assert.Greater(t, d.minReady, lookUp)
	grace := time.Duration(*d.template.Spec.TerminationGracePeriodSeconds) * time.Second
	assert.GreaterOrEqual(t, grace, s.Shutdown.Drain+s.Shutdown.Timeout+s.Reports.Flush+3*time.Second)
	sidecar, err := time.ParseDuration(strings.TrimPrefix(d.template.Annotations["proxy.istio.io/config"], "terminationDrainDuration: "))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, sidecar, s.Shutdown.Drain+s.Shutdown.Timeout, "an injected sidecar takes calls as long as Tollgate does")
	assert.LessOrEqual(t, sidecar, grace)
	if d.kind == "Deployment" {
		assert.Equal(t, intstr.FromInt32(0), *d.rolling.MaxUnavailable)
		assert.Equal(t, intstr.FromInt32(1), *d.rolling.MaxSurge)
	}
}

// letsIn: Mixer's port for Mixer, the admin port for Prometheus if there is one, and nothing to everybody.
func (d deployment) letsIn(t *testing.T) {
	require.Len(t, d.policies, 1)
	spec := d.policies[0].Spec
	assert.Equal(t, []networking.PolicyType{networking.PolicyTypeIngress}, spec.PolicyTypes)
	var ports []string
	for _, rule := range spec.Ingress {
		require.Len(t, rule.Ports, 1)
		ports = append(ports, rule.Ports[0].Port.StrVal)
		require.NotEmpty(t, rule.From, "no peers are all peers")
		for _, peer := range rule.From {
			assert.NotNil(t, peer.NamespaceSelector)
			require.NotNil(t, peer.PodSelector)
			caller := rule.Ports[0].Port.StrVal == "grpc-mixer"
			assert.Equal(t, caller, peer.PodSelector.MatchLabels["istio"] == "mixer", "the label of Istio's own Mixer pods")
		}
	}
	expected := []string{"grpc-mixer"}
	if len(d.monitors) > 0 {
		expected = append(expected, "http-admin")
	}
	assert.Equal(t, expected, ports)
}

// TestOverlayOfGuide: the overlay that docs/kubernetes.md shows names an image, and the pods' version follows; what may not change in an
// upgrade does not.
func TestOverlayOfGuide(t *testing.T) {
	shown := regexp.MustCompile("(?s)kustomization.yaml <<END\n(.*?)END\n").FindStringSubmatch(read(t, "docs/kubernetes.md"))
	require.NotNil(t, shown)
	for _, folder := range []string{"overlays/tls", "base", "overlays/statefulset-spool"} {
		d := deployed(t, kustomizedIn(t, overlay(t, strings.Replace(shown[1], "path/to/operatorconfig/kubernetes/overlays/tls", "%s/"+folder, 1))))
		assert.Equal(t, "registry.example.com/tollgate:1.2.3", d.template.Spec.Containers[0].Image)
		d.isSelected(t)
		for _, claim := range d.claims {
			assert.NotContains(t, claim.Labels, "version", "a claim's template never changes")
		}
	}
}

// TestImageUser: runAsNonRoot judges the number in the image, and Istio keeps 1337 for its sidecar.
func TestImageUser(t *testing.T) {
	user := regexp.MustCompile(`(?m)^USER (\d+):(\d+)$`).FindStringSubmatch(read(t, "Dockerfile"))
	require.NotNil(t, user)
	assert.NotContains(t, []string{"0", "1337"}, user[1])
	statefulset := deployed(t, kustomized(t, "overlays/statefulset-spool"))
	assert.Equal(t, user[2], strconv.FormatInt(*statefulset.template.Spec.SecurityContext.FSGroup, 10), "the volumes' group is the image's")
	assert.Nil(t, deployed(t, kustomized(t, "overlays/statefulset-spool-openshift")).template.Spec.SecurityContext.FSGroup)
}
