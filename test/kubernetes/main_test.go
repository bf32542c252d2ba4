// Package kubernetes tests what operators deploy Tollgate with: the kustomize base and overlays, the Helm chart, the systemd unit, the
// alert rules and the dashboard. A real API server judges the manifests; nothing runs behind it.
package kubernetes

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	root      = "../.."
	manifests = root + "/operatorconfig/kubernetes"
	chartPath = root + "/operatorconfig/helm/tollgate"
	namespace = "istio-system"
)

// program returns the path of a program that was built or fetched into bin/kubernetes, or is installed. Without it the test is skipped, and
// fails in continuous integration.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "bin", "kubernetes", name))
	require.NoError(t, err)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if path, err = exec.LookPath(name); err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		require.FailNow(t, name+" is neither in bin/kubernetes nor installed; run make test-kubernetes as root on Debian, or install it")
	}
	t.Skip(name + " is neither in bin/kubernetes nor installed; make test-kubernetes fetches or builds it")
	return ""
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	return string(content)
}
