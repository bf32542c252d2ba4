// Package image builds the container image without a container engine and runs it as clusters do: as a user without rights, with a root that cannot be
// written to.
//
// No base image can be fetched here. What the Dockerfile's first stage runs is run on this machine, in two folders that have what the build context
// has; its second stage, which is FROM scratch, is built as it stands.
package image

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "../.."

// Build arguments, as make image passes them.
const (
	version  = "1.2.3"
	revision = "0123456789abcdef0123456789abcdef01234567"
	epoch    = "1700000000"
)

// needed are the programs that build and run images.
var needed = []string{"buildah", "skopeo", "umoci", "runc"}

// canRun skips the test where it cannot run; in continuous integration that is a failure.
func canRun(t *testing.T) {
	t.Helper()
	reason := ""
	if os.Getuid() != 0 {
		reason = "containers are started as root here"
	}
	for _, program := range needed {
		if _, err := exec.LookPath(program); err != nil {
			reason = program + " is not installed; make test-image installs it as root on Debian"
		}
	}
	if reason == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		require.FailNow(t, reason)
	}
	t.Skip(reason)
}

// run runs a program and returns what it prints.
func run(t *testing.T, directory, program string, arguments ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, arguments...)
	command.Dir = directory
	var said bytes.Buffer
	command.Stderr = &said
	output, err := command.Output()
	require.NoError(t, err, "%s %s: %s%s", program, strings.Join(arguments, " "), output, said.String())
	return string(output)
}

// dockerfile returns the commands of the first stage that build, and the second stage.
func dockerfile(t *testing.T) (builds, final string) {
	t.Helper()
	text, err := os.ReadFile(root + "/Dockerfile")
	require.NoError(t, err)
	first, final, found := strings.Cut(string(text), "\nFROM scratch\n")
	require.True(t, found)
	command := regexp.MustCompile(`(?m)^RUN (make .*)$`).FindStringSubmatch(first)
	require.NotNil(t, command)
	return command[1], "FROM scratch\n" + final
}

// copyContext copies what .dockerignore lets into the build context.
func copyContext(t *testing.T, directory string) {
	t.Helper()
	ignore, err := os.ReadFile(root + "/.dockerignore")
	require.NoError(t, err)
	for _, line := range regexp.MustCompile(`(?m)^!(.*)$`).FindAllStringSubmatch(string(ignore), -1) {
		require.NoError(t, os.MkdirAll(filepath.Join(directory, filepath.Dir(line[1])), 0o755))
		run(t, root, "cp", "-R", line[1], filepath.Join(directory, line[1]))
	}
	require.NoError(t, filepath.WalkDir(directory, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Name() == "testdata" || strings.HasSuffix(path, "_test.go") {
			require.NoError(t, os.RemoveAll(path))
			if entry.IsDir() {
				return filepath.SkipDir
			}
		}
		return nil
	}))
}

// build builds the image in a folder of its own and returns the folder of its OCI layout.
func build(t *testing.T) string {
	t.Helper()
	command, final := dockerfile(t)
	// The first stage's root, as far as the second takes from it.
	stage, work := t.TempDir(), t.TempDir()
	copyContext(t, stage+"/src")
	compile := exec.CommandContext(t.Context(), "sh", "-c", command)
	compile.Dir = stage + "/src"
	compile.Env = append(os.Environ(), "VERSION="+version, "SOURCE_DATE_EPOCH="+epoch, "GOWORK=off", "GOFLAGS=")
	output, err := compile.CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.NoError(t, os.MkdirAll(stage+"/etc/ssl/certs", 0o755))
	run(t, "", "cp", "/etc/ssl/certs/ca-certificates.crt", stage+"/etc/ssl/certs/")
	require.NoError(t, os.WriteFile(work+"/Dockerfile", []byte(final), 0o600))
	require.NoError(t, os.Mkdir(work+"/context", 0o700))
	buildah := []string{"--root", work + "/storage", "--runroot", work + "/run", "--storage-driver", "vfs"}
	run(t, work, "buildah", append(buildah, "build", "--isolation", "chroot", "--timestamp", epoch, "--identity-label=false",
		"--build-context", "build="+stage, "--build-arg", "VERSION="+version, "--build-arg", "REVISION="+revision, "--build-arg", "SOURCE_DATE_EPOCH="+epoch,
		"--tag", "tollgate:"+version, "--file", work+"/Dockerfile", work+"/context")...)
	run(t, work, "skopeo", "copy", "--quiet",
		"containers-storage:[vfs@"+work+"/storage+"+work+"/run]localhost/tollgate:"+version, "oci:"+work+"/layout:tollgate")
	return work + "/layout"
}

// manifest is what of an image's manifest and configuration is looked at.
type manifest struct {
	digest string
	Layers []struct{ Size int64 }
	config struct {
		Created string
		Config  struct {
			User       string
			Entrypoint []string
			Cmd        []string
			Labels     map[string]string
		}
	}
}

func inspect(t *testing.T, layout string) (m manifest) {
	t.Helper()
	var index struct{ Manifests []struct{ Digest string } }
	content, err := os.ReadFile(layout + "/index.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(content, &index))
	require.Len(t, index.Manifests, 1)
	require.NoError(t, json.Unmarshal([]byte(run(t, "", "skopeo", "inspect", "--raw", "oci:"+layout+":tollgate")), &m))
	require.NoError(t, json.Unmarshal([]byte(run(t, "", "skopeo", "inspect", "--config", "oci:"+layout+":tollgate")), &m.config))
	m.digest = index.Manifests[0].Digest
	return m
}

// TestImage builds it twice, looks at it, and runs it.
func TestImage(t *testing.T) {
	canRun(t)
	layout := build(t)
	image := inspect(t, layout)
	t.Run("repeats", func(t *testing.T) {
		assert.Equal(t, image.digest, inspect(t, build(t)).digest)
	})
	t.Run("says what it is", func(t *testing.T) {
		assert.Equal(t, map[string]string{
			"org.opencontainers.image.title":       "tollgate",
			"org.opencontainers.image.description": "Policy and telemetry adapter for Istio's Mixer",
			"org.opencontainers.image.source":      "https://github.com/tollgate-mesh/tollgate",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     version,
			"org.opencontainers.image.revision":    revision,
		}, image.config.Config.Labels)
		assert.Equal(t, "65532:65532", image.config.Config.User, "a number, which runAsNonRoot can judge")
		assert.Equal(t, []string{"/tollgate"}, image.config.Config.Entrypoint)
		assert.Equal(t, []string{"serve"}, image.config.Config.Cmd)
		assert.Equal(t, "2023-11-14T22:13:20Z", image.config.Created)
	})
	bundle := t.TempDir() + "/bundle"
	run(t, "", "umoci", "unpack", "--image", layout+":tollgate", bundle)
	t.Run("holds four files", func(t *testing.T) { holdsFourFiles(t, bundle+"/rootfs", image) })
	for name, user := range map[string]user{
		"the image's user":        {65532, 65532},
		"a user that is assigned": {1000660000, 0}, // as OpenShift does, with the group root
	} {
		t.Run(name, func(t *testing.T) { serves(t, bundle, user) })
	}
}

func holdsFourFiles(t *testing.T, rootfs string, image manifest) {
	t.Helper()
	modes := map[string]string{}
	require.NoError(t, filepath.WalkDir(rootfs, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		modes[strings.TrimPrefix(path, rootfs)] = info.Mode().String()
		return err
	}))
	assert.Equal(t, map[string]string{
		"/tollgate": "-r-xr-xr-x", "/LICENSE": "-r--r--r--", "/sbom.cdx.json": "-r--r--r--", "/etc/ssl/certs/ca-certificates.crt": "-r--r--r--",
	}, modes)

	var bom struct {
		BOMFormat string
		Metadata  struct {
			Timestamp string
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version, PURL string }
	}
	content, err := os.ReadFile(rootfs + "/sbom.cdx.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(content, &bom))
	assert.Equal(t, "CycloneDX", bom.BOMFormat)
	assert.Equal(t, "github.com/tollgate-mesh/tollgate "+version, bom.Metadata.Component.Name+" "+bom.Metadata.Component.Version)
	assert.Equal(t, "2023-11-14T22:13:20Z", bom.Metadata.Timestamp)
	listed := map[string]string{}
	for _, component := range bom.Components {
		listed[component.Name] = component.Version
		assert.NotEmpty(t, component.PURL, component.Name)
	}
	// Every module that the binary names, and Go's own library.
	for _, module := range regexp.MustCompile(`(?m)^\tdep\t(\S+)\t(\S+)`).FindAllStringSubmatch(run(t, "", "go", "version", "-m", rootfs+"/tollgate"), -1) {
		assert.Equal(t, module[2], listed[module[1]], module[1])
	}
	assert.NotEmpty(t, listed["std"])

	var size, compressed int64
	require.NoError(t, filepath.WalkDir(rootfs, func(_ string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	}))
	for _, layer := range image.Layers {
		compressed += layer.Size
	}
	t.Logf("%d MB unpacked, %d MB compressed, %d components", size/1e6, compressed/1e6, len(bom.Components))
}
