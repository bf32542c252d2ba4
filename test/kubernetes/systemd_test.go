package kubernetes

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

const unitPath = "operatorconfig/systemd/tollgate.service"

// unit returns the unit's directives; of one that is written several times the last.
func unit(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^(\w+)=(.*)$`).FindAllStringSubmatch(read(t, unitPath), -1) {
		all[line[1]] = line[2]
	}
	return all
}

// TestUnitFitsGuide: the settings that docs/vm.md shows are valid, and the unit leaves them the directories and the time that they need.
func TestUnitFitsGuide(t *testing.T) {
	guide := read(t, "docs/vm.md")
	shown := regexp.MustCompile("(?s)```yaml\n# /etc/tollgate/settings.yaml\n(.*?)```").FindStringSubmatch(guide)
	require.NotNil(t, shown)
	s, err := settings.Parse([]byte(shown[1]))
	require.NoError(t, err)
	require.NoError(t, s.Validate())
	assert.True(t, s.TLS.Enabled())
	assert.False(t, s.AllowPlaintext)
	assert.Regexp(t, `^127\.0\.0\.1:`, s.Admin, "which has no TLS")
	// What it shows for several clusters goes in the same file.
	for _, part := range regexp.MustCompile("(?s)  ```yaml\n(  (?:callers|tls):\n.*?)  ```").FindAllStringSubmatch(guide, -1) {
		several, err := settings.Parse([]byte(part[1]))
		require.NoError(t, err, part[1])
		several.Secrets = s.Secrets
		require.NoError(t, several.Validate(), part[1])
	}
	u := unit(t)
	stop, err := time.ParseDuration(u["TimeoutStopSec"])
	require.NoError(t, err)
	assert.GreaterOrEqual(t, stop, s.Shutdown.Drain+s.Shutdown.Timeout+s.Reports.Flush+3*time.Second)
	assert.Greater(t, s.Shutdown.Drain, lookUp)
	assert.Equal(t, "/var/lib/"+u["StateDirectory"], s.Reports.Directory)
	for name, sink := range s.Reports.Sinks {
		if sink.File != nil {
			assert.Equal(t, "/var/log/"+u["LogsDirectory"], filepath.Dir(sink.File.Path), name)
		}
	}
	assert.Contains(t, u["ExecStart"], "--settings /etc/tollgate/settings.yaml")
	soft := resource.MustParse(strings.TrimSuffix(strings.TrimPrefix(u["Environment"], "GOMEMLIMIT="), "B"))
	hard := resource.MustParse(u["MemoryMax"] + "i")
	assert.Less(t, soft.Value(), hard.Value())
}

func TestUnitIsHardened(t *testing.T) {
	analyze := program(t, "systemd-analyze")
	// Every directive is known to systemd, which would only warn about it.
	output, err := exec.Command(analyze, "verify", "--man=no", filepath.Join(root, unitPath)).CombinedOutput()
	for line := range strings.Lines(string(output)) {
		assert.Contains(t, line, "/usr/local/bin/tollgate is not executable", "%v", err)
	}
	// Of ten, less is better.
	output, err = exec.Command(analyze, "security", "--offline=yes", "--threshold=15", filepath.Join(root, unitPath)).CombinedOutput()
	require.NoError(t, err, "%s", output)
}
