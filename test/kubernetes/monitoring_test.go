package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

const prometheus = "operatorconfig/prometheus"

func TestAlerts(t *testing.T) {
	promtool := program(t, "promtool")
	for _, arguments := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml"},
		{"test", "rules", "alerts_test.yaml"},
	} {
		command := exec.Command(promtool, arguments...)
		command.Dir = filepath.Join(root, prometheus)
		output, err := command.CombinedOutput()
		assert.NoError(t, err, "%s", output)
	}
}

func alertGroups(t *testing.T) []monitoring.RuleGroup {
	t.Helper()
	var file struct {
		Groups []monitoring.RuleGroup `json:"groups"`
	}
	require.NoError(t, yaml.UnmarshalStrict([]byte(read(t, prometheus+"/alerts.yaml")), &file))
	return file.Groups
}

func TestPrometheusRuleEqualsAlerts(t *testing.T) {
	var rule monitoring.PrometheusRule
	require.NoError(t, yaml.UnmarshalStrict([]byte(read(t, prometheus+"/operator/prometheusrule.yaml")), &rule))
	assert.Equal(t, alertGroups(t), rule.Spec.Groups)
}

// TestAlertsAreTested: each alert is seen firing and seen quiet, and measures what there is.
func TestAlertsAreTested(t *testing.T) {
	var file struct {
		Tests []struct {
			Expressions []struct {
				Expr    string           `json:"expr"`
				Samples []map[string]any `json:"exp_samples"`
			} `json:"promql_expr_test"`
		} `json:"tests"`
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, prometheus+"/alerts_test.yaml")), &file))
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, e := range test.Expressions {
			fires[e.Expr] = fires[e.Expr] || len(e.Samples) > 0
			quiet[e.Expr] = quiet[e.Expr] || len(e.Samples) == 0
		}
	}
	known := documented(t)
	for _, group := range alertGroups(t) {
		for _, rule := range group.Rules {
			expr := fmt.Sprintf(`ALERTS{alertname=%q, alertstate="firing"}`, rule.Alert)
			assert.True(t, fires[expr], "%s is seen firing", rule.Alert)
			assert.True(t, quiet[expr], "%s is seen quiet", rule.Alert)
			assert.Contains(t, []string{"warning", "critical"}, rule.Labels["severity"], rule.Alert)
			measures(t, known, rule.Expr.String(), rule.Alert)
		}
	}
}

func TestDashboard(t *testing.T) {
	var dashboard struct {
		UID    string `json:"uid"`
		Panels []struct {
			ID      int    `json:"id"`
			Title   string `json:"title"`
			Type    string `json:"type"`
			GridPos struct{ X, Y, W, H int }
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
		Templating struct {
			List []struct {
				Name       string `json:"name"`
				Definition string `json:"definition"`
			} `json:"list"`
		} `json:"templating"`
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, "operatorconfig/grafana/tollgate.json")), &dashboard))
	known := documented(t)
	var rules strings.Builder // each expression as a rule, for promtool to parse
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	ids, places, shown := map[int]bool{}, map[string]bool{}, map[string]bool{}
	for _, panel := range dashboard.Panels {
		assert.False(t, ids[panel.ID], "one id a panel: %d", panel.ID)
		ids[panel.ID] = true
		place := fmt.Sprint(panel.GridPos)
		assert.False(t, places[place], "%s lies on another panel", panel.Title)
		places[place] = true
		assert.LessOrEqual(t, panel.GridPos.X+panel.GridPos.W, 24, panel.Title)
		assert.Equal(t, panel.Type == "row", len(panel.Targets) == 0, panel.Title)
		for _, target := range panel.Targets {
			expr := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*").Replace(target.Expr)
			assert.NotContains(t, expr, "$", "a variable that there is not")
			fmt.Fprintf(&rules, "  - {record: panel:%d, expr: %q}\n", panel.ID, expr)
			for _, name := range measures(t, known, expr, panel.Title) {
				shown[name] = true
			}
		}
	}
	for _, variable := range dashboard.Templating.List[1:] {
		expr := regexp.MustCompile(`^label_values\((tollgate_build_info)[^,]*, \w+\)$`).FindStringSubmatch(variable.Definition)
		assert.NotNil(t, expr, variable.Name)
	}
	for name := range known {
		if strings.HasPrefix(name, "tollgate_") {
			assert.True(t, shown[name], "%s is on no panel", name)
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(file, []byte(rules.String()), 0o600))
	output, err := exec.Command(program(t, "promtool"), "check", "rules", "--lint=none", file).CombinedOutput()
	assert.NoError(t, err, "%s", output)
}

// documented returns the metrics of docs/observability.md with their labels. A test of the product keeps the table complete.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	known := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:tollgate)_\\w+)` \\| (.*?) \\|").FindAllStringSubmatch(read(t, "docs/observability.md"), -1) {
		var labels []string
		for _, label := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[2], -1) {
			labels = append(labels, label[1])
		}
		known[row[1]] = labels
	}
	require.Greater(t, len(known), 20)
	return known
}

// measures checks the metrics of an expression: they are documented, and so are the labels by which they are selected and summed. It
// returns their names.
func measures(t *testing.T, known map[string][]string, expr, where string) []string {
	t.Helper()
	var names []string
	for _, metric := range regexp.MustCompile(`(tollgate_\w+)(?:\{(.*?)\})?`).FindAllStringSubmatch(expr, -1) {
		name := strings.TrimSuffix(metric[1], "_bucket")
		labels, ok := known[name]
		assert.True(t, ok, "%s: docs/observability.md has no %s", where, name)
		for _, used := range regexp.MustCompile(`(\w+)\s*[=!]~?"`).FindAllStringSubmatch(metric[2], -1) {
			assert.Contains(t, append(labels, "job", "instance"), used[1], "%s: %s", where, name)
		}
		for _, grouping := range regexp.MustCompile(`by \((.*?)\)`).FindAllStringSubmatch(expr, -1) {
			for label := range strings.SplitSeq(grouping[1], ", ") {
				assert.Contains(t, append(labels, "job", "instance", "le"), label, "%s: %s", where, name)
			}
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		assert.Regexp(t, `\b(up|go_\w+|process_\w+)\b`, expr, where)
	}
	return names
}
