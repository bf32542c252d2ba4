package mesh_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// orphanEnv turns the test binary into a program that starts a Mixer and dies without a word.
const orphanEnv = "MESH_TEST_ORPHAN"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		standIn(os.Args[2:])
	}
	if version := os.Getenv(orphanEnv); version != "" {
		mixer, err := mesh.StartMixer(context.Background(), version, mesh.MixerOptions{Dir: os.Getenv("MESH_TEST_DIR")})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(mixer.Pid())
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	os.Exit(m.Run())
}

// standIn behaves like tollgate serve as far as the harness can see, so that the harness's own tests need no product.
func standIn(args []string) {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	listen := flags.String("listen", "", "")
	flags.String("admin", "", "")
	settings := flags.String("settings", "", "")
	stubborn := flags.Bool("stubborn", false, "")
	_ = flags.Parse(args)
	text, _ := os.ReadFile(*settings)
	fmt.Printf("settings %q, env %q\n", text, os.Getenv("MESH_TEST_ENV"))
	if string(text) == "wrong" {
		os.Exit(3)
	}
	lis, err := net.Listen("tcp", *listen)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		fmt.Println("asked to stop")
		if !*stubborn {
			server.GracefulStop()
		}
	}()
	_ = server.Serve(lis)
	os.Exit(0)
}

// everyVersion runs a test against each release's Mixer at the same time.
func everyVersion(t *testing.T, test func(t *testing.T, version string)) {
	t.Parallel()
	for _, version := range mesh.Versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, version)
		})
	}
}

// opaConfig is Mixer's built-in opa adapter, which needs no process beside Mixer.
func opaConfig(condition string) string {
	return `apiVersion: config.istio.io/v1alpha2
kind: handler
metadata: {name: opa, namespace: istio-system}
spec:
  compiledAdapter: opa
  params:
    policy:
    - |
      package mesh
      default allow = false
      allow = true { ` + condition + ` }
    checkMethod: data.mesh.allow
    failClose: true
---
apiVersion: config.istio.io/v1alpha2
kind: instance
metadata: {name: authz, namespace: istio-system}
spec:
  compiledTemplate: authorization
  params:
    subject:
      user: request.headers["x-user"] | ""
      properties:
        string: source.name | ""
        int: request.size | 0
        double: test.double | 0.5
        bool: connection.mtls | false
        ip: source.ip | ip("127.0.0.1")
        time: request.time | timestamp("2020-01-01T00:00:00Z")
        duration: response.duration | "1s"
    action:
      namespace: destination.namespace | ""
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: opa, namespace: istio-system}
spec:
  match: destination.namespace == "default"
  actions:
  - handler: opa
    instances: [authz]
---
apiVersion: config.istio.io/v1alpha2
kind: attributemanifest
metadata: {name: more, namespace: istio-system}
spec:
  attributes:
    test.double:
      valueType: DOUBLE
`
}

var request = mesh.Attributes{
	"context.reporter.kind": "inbound",
	"destination.namespace": "default",
	"request.headers":       map[string]string{"x-user": "alice", "x-other": "1"},
	"source.name":           "text",
	"request.size":          int64(7),
	"test.double":           1.5,
	"connection.mtls":       true,
	"source.ip":             netip.MustParseAddr("10.1.2.3"),
	"request.time":          time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	"response.duration":     1500 * time.Millisecond,
}

func TestMixerAllowsAndDenies(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		mixer := meshtest.Mixer(t, version, mesh.MixerOptions{Resources: map[string]string{
			"opa": opaConfig(`input.subject.user = "alice"`),
		}})

		for user, allowed := range map[string]bool{"alice": true, "bob": false} {
			attributes := request.With(mesh.Attributes{"request.headers": map[string]string{"x-user": user}})
			verdict, err := mixer.Check(t.Context(), attributes)
			require.NoError(t, err)
			args, err := mesh.MixcArgs(attributes)
			require.NoError(t, err)
			printed, err := mixer.Mixc(t.Context(), args...)
			require.NoError(t, err)

			assert.Equal(t, allowed, verdict.OK(), "%v", verdict)
			assert.Equal(t, allowed, printed.OK(), printed.Output)
			if allowed {
				assert.True(t, verdict.MixersOwnLifetime(), "%v", verdict)
			} else {
				assert.Equal(t, codes.PermissionDenied, verdict.Code)
				assert.Equal(t, "opa.istio-system:opa: request was rejected", verdict.Message)
				assert.Zero(t, verdict.ValidFor)
				assert.Zero(t, verdict.ValidUses)
			}
			assert.Contains(t, verdict.Referenced, "request.headers[x-user]")

			assert.Equal(t, verdict.Code, printed.Code)
			assert.Equal(t, verdict.Message, printed.Message)
			assert.Equal(t, verdict.ValidFor, printed.ValidFor)
			assert.Equal(t, verdict.ValidUses, printed.ValidUses)
			assert.Equal(t, verdict.Referenced, printed.Referenced)
		}
	})
}

// TestAttributesArrive sends an attribute of every type through both clients; the policy compares each.
func TestAttributesArrive(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		mixer := meshtest.Mixer(t, version, mesh.MixerOptions{Resources: map[string]string{
			"opa": opaConfig(`p := input.subject.properties; p.string = "text"; p.int = 7; p.double = 1.5; p.bool = true;
        p.time = "2026-01-02T03:04:05Z"; p.duration = 1500000000; p.ip = "CgECAw=="`),
		}})
		verdict, err := mixer.Check(t.Context(), request)
		require.NoError(t, err)
		assert.True(t, verdict.OK(), "%v", verdict)

		args, err := mesh.MixcArgs(request)
		require.NoError(t, err)
		printed, err := mixer.Mixc(t.Context(), args...)
		require.NoError(t, err)
		assert.True(t, printed.OK(), printed.Output)
	})
}

func TestConfigurationFollows(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		mixer := meshtest.Mixer(t, version, mesh.MixerOptions{Resources: map[string]string{
			"opa": opaConfig(`input.subject.user = "alice"`),
		}})
		require.True(t, check(t, mixer).OK())

		meshtest.Apply(t, mixer, "opa", opaConfig(`input.subject.user = "bob"`))
		require.False(t, check(t, mixer).OK())

		require.NoError(t, mixer.Delete("opa"))
		require.NoError(t, mixer.Sync(t.Context()))
		require.True(t, check(t, mixer).OK())

		require.NoError(t, mixer.ApplyAndSync(t.Context(), "opa",
			strings.ReplaceAll(opaConfig("true"), "destination.namespace ==", "no.such.attribute ==")))
		problems := mixer.ConfigErrors()
		require.NotEmpty(t, problems)
		assert.Contains(t, problems[0], "unknown attribute no.such.attribute")

		meshtest.Apply(t, mixer, "opa", opaConfig("true"))

		require.NoError(t, mixer.ApplyAndSync(t.Context(), "opa", opaConfig("true")+`---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: unquoted, namespace: istio-system}
spec:
  match: true
---
not: [ yaml
`))
		problems = mixer.ConfigErrors()
		assert.Contains(t, strings.Join(problems, "\n"), "Failed to convert unquoted.rule.istio-system")
		assert.Contains(t, strings.Join(problems, "\n"), "Error processing")

		// Mixer may be reading the former file still, and complain of it once more, when it is replaced; when it uses this one, it is through with that.
		require.NoError(t, mixer.ApplyAndSync(t.Context(), "opa", opaConfig("true")))
		meshtest.Apply(t, mixer, "opa", opaConfig("false"))
		require.False(t, check(t, mixer).OK())
	})
}

func TestDirectResponseAndFailedCall(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		const denier = `apiVersion: config.istio.io/v1alpha2
kind: handler
metadata: {name: denier, namespace: istio-system}
spec:
  compiledAdapter: denier
  params:
    status:
      code: 16
      message: "who\nare you? (say it)"
    validDuration: 5s
    validUseCount: 3
---
apiVersion: config.istio.io/v1alpha2
kind: instance
metadata: {name: nothing, namespace: istio-system}
spec:
  compiledTemplate: checknothing
  params: {}
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: deny, namespace: istio-system}
spec:
  match: request.path != "/broken"
  actions:
  - handler: denier
    instances: [nothing]
---
apiVersion: config.istio.io/v1alpha2
kind: instance
metadata: {name: broken, namespace: istio-system}
spec:
  compiledTemplate: listentry
  params:
    value: source.uid
---
apiVersion: config.istio.io/v1alpha2
kind: handler
metadata: {name: list, namespace: istio-system}
spec:
  compiledAdapter: listchecker
  params:
    overrides: ["x"]
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: broken, namespace: istio-system}
spec:
  match: request.path == "/broken"
  actions:
  - handler: list
    instances: [broken]
`
		mixer := meshtest.Mixer(t, version, mesh.MixerOptions{Resources: map[string]string{"denier": denier}})

		verdict, err := mixer.Check(t.Context(), request.With(mesh.Attributes{"request.path": "/"}))
		require.NoError(t, err)
		assert.Equal(t, codes.Unauthenticated, verdict.Code)
		assert.Equal(t, "denier.istio-system:who\nare you? (say it)", verdict.Message)
		assert.Equal(t, 5*time.Second, verdict.ValidFor)
		assert.EqualValues(t, 3, verdict.ValidUses)

		printed, err := mixer.Mixc(t.Context(), "-s", "request.path=/,destination.namespace=default")
		require.NoError(t, err)
		assert.Equal(t, verdict.Code, printed.Code)
		assert.Equal(t, verdict.Message, printed.Message)
		assert.Equal(t, verdict.ValidFor, printed.ValidFor)
		assert.Equal(t, verdict.ValidUses, printed.ValidUses)

		_, err = mixer.Check(t.Context(), request.With(mesh.Attributes{"request.path": "/broken"}))
		assert.Equal(t, codes.Internal, status.Code(err), "%v", err)
		printed, err = mixer.Mixc(t.Context(), "-s", "request.path=/broken,destination.namespace=default")
		require.NoError(t, err)
		assert.True(t, printed.Failed)
		assert.Equal(t, codes.Internal, printed.Code)
		assert.NotEmpty(t, printed.Message)
	})
}

// TestSyncSendsNothing follows a configuration that denies every request, with and without a namespace.
func TestSyncSendsNothing(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		denyAll := strings.ReplaceAll(opaConfig("false"), `destination.namespace == "default"`, "true == true")
		mixer := meshtest.Mixer(t, version, mesh.MixerOptions{Resources: map[string]string{"opa": denyAll}})
		require.False(t, check(t, mixer).OK())
		meshtest.Apply(t, mixer, "more", strings.NewReplacer("name: opa,", "name: other,", "handler: opa", "handler: other").Replace(denyAll))
		assert.Contains(t, check(t, mixer).Message, "other.istio-system")
	})
}

func TestMixerRestarts(t *testing.T) {
	t.Parallel()
	mixer := meshtest.Mixer(t, mesh.Versions[0], mesh.MixerOptions{Resources: map[string]string{
		"opa": opaConfig(`input.subject.user = "bob"`),
	}})
	addr := mixer.Addr
	mixer.Kill()
	_, err := mixer.Check(t.Context(), request)
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	require.NoError(t, mixer.Start(t.Context()))
	require.Equal(t, addr, mixer.Addr)
	require.False(t, check(t, mixer).OK())
	require.Error(t, mixer.Start(t.Context()), "it already runs")
}

func TestReport(t *testing.T) {
	t.Parallel()
	mixer := meshtest.Mixer(t, mesh.Versions[0], mesh.MixerOptions{Resources: map[string]string{"stdio": `apiVersion: config.istio.io/v1alpha2
kind: handler
metadata: {name: stdio, namespace: istio-system}
spec:
  compiledAdapter: stdio
  params: {outputAsJson: true}
---
apiVersion: config.istio.io/v1alpha2
kind: instance
metadata: {name: entry, namespace: istio-system}
spec:
  compiledTemplate: logentry
  params:
    severity: '"info"'
    timestamp: request.time
    variables:
      path: request.path
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: log, namespace: istio-system}
spec:
  actions:
  - handler: stdio
    instances: [entry]
`}})
	require.NoError(t, mixer.Report(t.Context(),
		request.With(mesh.Attributes{"request.path": "/first"}),
		request.With(mesh.Attributes{"request.path": "/second"})))
	require.NoError(t, mesh.WaitFor(t.Context(), "both records", func(context.Context) error {
		for _, path := range []string{`"path":"/first"`, `"path":"/second"`} {
			if !mixer.Log.Contains(path) {
				return fmt.Errorf("no %s", path)
			}
		}
		return nil
	}))
}

// TestTollgateLifecycle cannot run beside others: it sets the environment.
func TestTollgateLifecycle(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	t.Setenv(mesh.TollgateEnv, self)
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{
		Settings: "a: b",
		Env:      []string{"MESH_TEST_ENV=set"},
	})
	require.True(t, tollgate.Running())
	assert.True(t, tollgate.Log.Contains(`settings "a: b", env "set"`), tollgate.Log.String())
	addr, pid := tollgate.Addr, tollgate.Pid()
	require.Error(t, tollgate.Start(t.Context()), "it already runs")

	require.NoError(t, tollgate.Restart(t.Context()))
	assert.Equal(t, addr, tollgate.Addr)
	assert.NotEqual(t, pid, tollgate.Pid())
	mark := tollgate.Log.Mark()
	require.NoError(t, tollgate.Stop(t.Context()))
	assert.Contains(t, tollgate.Log.Since(mark), "asked to stop")
	assert.False(t, tollgate.Running())
	require.NoError(t, tollgate.Stop(t.Context()), "stopping twice is harmless")

	require.NoError(t, tollgate.Start(t.Context()))
	mark = tollgate.Log.Mark()
	tollgate.Kill()
	assert.Empty(t, tollgate.Log.Since(mark))
	require.Error(t, tollgate.Health(t.Context()))
}

func TestTollgateThatFails(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	t.Setenv(mesh.TollgateEnv, self)
	_, err = mesh.StartTollgate(t.Context(), mesh.TollgateOptions{Settings: "wrong"})
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, `settings "wrong"`, "the error brings the log along")

	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Args: []string{"--stubborn"}})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, tollgate.Stop(ctx), "was killed")
	require.False(t, tollgate.Running())
}

// TestNothingIsLeftBehind kills the program that started a Mixer.
func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), orphanEnv+"="+mesh.Versions[0], "MESH_TEST_DIR="+t.TempDir())
	out, _ := cmd.Output()
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	require.NoError(t, err, "%s", out)

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	require.NoError(t, mesh.WaitFor(ctx, "mixs to be gone", func(context.Context) error {
		// One that nobody reaped yet is gone all the same; a missing file reads as nothing.
		state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if len(state) > 0 && !strings.Contains(string(state), ") Z ") {
			return fmt.Errorf("mixs %d lives", pid)
		}
		return nil
	}))
}

func TestMixcCannotSayEverything(t *testing.T) {
	t.Parallel()
	for _, attributes := range []mesh.Attributes{
		{"a": "x,y"},
		{"a": map[string]string{"x:y": "z"}},
		{"a": map[string]string{"x": "y;z"}},
		{"a": struct{}{}},
	} {
		_, err := mesh.MixcArgs(attributes)
		assert.Error(t, err, "%v", attributes)
	}
}

func TestWaitForTellsWhatAndWhy(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := mesh.WaitFor(ctx, "Godot", func(context.Context) error { return os.ErrNotExist })
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "Godot")
}

func check(t *testing.T, mixer *mesh.Mixer) *mesh.Verdict {
	t.Helper()
	verdict, err := mixer.Check(t.Context(), request)
	require.NoError(t, err)
	return verdict
}

func BenchmarkCheck(b *testing.B) {
	mixer, err := mesh.StartMixer(b.Context(), mesh.Versions[0], mesh.MixerOptions{Resources: map[string]string{
		"opa": opaConfig(`input.subject.user = "alice"`),
	}})
	require.NoError(b, err)
	defer func() { _ = mixer.Close() }()
	b.Run("sequential", func(b *testing.B) {
		for b.Loop() {
			if _, err := mixer.Check(b.Context(), request); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("64 callers", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := mixer.Check(b.Context(), request); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
