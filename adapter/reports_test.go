package adapter

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/mixer"
	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// toFiles makes sinks of these names, each a file of that name in the directory, and the first the default. The end has time to deliver.
func toFiles(s *settings.Settings, directory string, names ...string) {
	s.Reports.Flush = patience
	s.Reports.DefaultSinks = names[:1]
	s.Reports.Sinks = map[string]settings.Sink{}
	for _, name := range names {
		s.Reports.Sinks[name] = settings.Sink{
			File:  &settings.FileSink{Path: filepath.Join(directory, name+".jsonl")},
			Batch: settings.Batch{Wait: time.Millisecond},
		}
	}
}

// lines returns the records of a file of JSON lines.
func lines(t *testing.T, path string) []map[string]any {
	t.Helper()
	content, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	var all []map[string]any
	scanner := bufio.NewScanner(strings.NewReader(string(content)))
	for scanner.Scan() {
		line := map[string]any{}
		require.NoError(t, json.Unmarshal(scanner.Bytes(), &line), scanner.Text())
		all = append(all, line)
	}
	return all
}

// report makes a report call that must be accepted.
func (s *service) report(t *testing.T, params *configpb.Params, variables ...map[string]string) {
	t.Helper()
	require.NoError(t, s.tryReport(t, params, variables...))
}

func (s *service) tryReport(t *testing.T, params *configpb.Params, variables ...map[string]string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var call []byte
	for _, v := range variables {
		call = append(call, mixertest.LogEntries(mixertest.Params(params), mixertest.LogEntry(v))...)
	}
	return mixertest.SendReport(ctx, s.connection, mixertest.LogEntryMethod, call)
}

func TestReportsReachTheSinksOfTheirHandlers(t *testing.T) {
	for name, directory := range map[string]string{"memory": "", "disk": filepath.Join(t.TempDir(), "spool")} {
		t.Run(name, func(t *testing.T) {
			out := t.TempDir()
			s := start(t, func(s *settings.Settings) {
				toFiles(s, out, "main", "audit")
				s.Reports.Directory = directory
			})
			s.report(t, &configpb.Params{Name: "a"}, map[string]string{"n": "1"}, map[string]string{"n": "2"})
			s.report(t, &configpb.Params{Name: "b", Report: &configpb.Report{Sinks: []string{"audit"}}}, map[string]string{"n": "3"})
			s.report(t, &configpb.Params{Name: "c", Report: &configpb.Report{Sinks: []string{"audit", "main"}, Mask: []string{"n"}}}, map[string]string{"n": "4"})
			s.report(t, &configpb.Params{Name: "d", Report: &configpb.Report{Sinks: []string{"nowhere"}}}, map[string]string{"n": "5"})
			require.NoError(t, s.end(t), "the end waits for what is not delivered")

			seen := func(sink string) (all []string) {
				for _, line := range lines(t, filepath.Join(out, sink+".jsonl")) {
					assert.Equal(t, "logentry", line["kind"])
					all = append(all, line["handler"].(string)+"="+line["variables"].(map[string]any)["n"].(string))
				}
				return all
			}
			assert.Equal(t, []string{"a=1", "a=2", "c=***", "d=5"}, seen("main"))
			assert.Equal(t, []string{"b=3", "c=***"}, seen("audit"))
		})
	}
}

func TestReportAccountsAreMetrics(t *testing.T) {
	s := start(t, func(s *settings.Settings) { toFiles(s, t.TempDir(), "main") })
	s.report(t, &configpb.Params{Name: "a"}, map[string]string{"n": "1"}, map[string]string{"n": "2"})
	require.Eventually(t, func() bool {
		_, body := s.get(t, "/metrics")
		return strings.Contains(body, `tollgate_report_delivered_total{sink="main"} 2`)
	}, patience, 10*time.Millisecond)
	_, body := s.get(t, "/metrics")
	for _, sample := range []string{
		`tollgate_report_accepted_total{sink="main"} 2`, `tollgate_report_pending{sink="main"} 0`, `tollgate_report_dropped_total{reason="oldest",sink="main"} 0`,
		`tollgate_reports_total{handler="a",kind="logentry",result="accepted"} 2`, `tollgate_report_calls_total{kind="logentry",result="ok"} 1`,
		`tollgate_report_deliveries_total{result="ok",sink="main"} 1`, `tollgate_decision_log_recorded_total 0`,
	} {
		assert.Contains(t, body, sample+"\n")
	}
}

// What a directory holds is delivered by whoever opens it next, under the ids that it had.
func TestRecordsOutliveTheProcess(t *testing.T) {
	directory, out := t.TempDir(), t.TempDir()
	blocked := filepath.Join(out, "blocked")
	require.NoError(t, os.WriteFile(blocked, []byte("not a directory"), 0o600))
	change := func(s *settings.Settings) {
		toFiles(s, blocked, "main")
		s.Reports.Directory, s.Reports.Flush = directory, 0
	}
	first := start(t, change)
	first.report(t, &configpb.Params{Name: "a"}, map[string]string{"n": "1"})
	require.NoError(t, first.end(t))
	require.NoError(t, os.Remove(blocked))

	second := start(t, change)
	require.Eventually(t, func() bool { return len(lines(t, filepath.Join(blocked, "main.jsonl"))) == 1 }, patience, time.Millisecond)
	_, body := second.get(t, "/metrics")
	assert.Contains(t, body, `tollgate_report_recovered_total{sink="main"} 1`)
}

// Two processes would deliver the same records and lose each other's.
func TestASpoolBelongsToOneProcess(t *testing.T) {
	directory := t.TempDir()
	change := func(s *settings.Settings) {
		toFiles(s, t.TempDir(), "main")
		s.Reports.Directory = directory
	}
	start(t, change)
	s := settings.Default()
	s.Listen, s.Admin = "127.0.0.1:0", ""
	change(&s)
	logger, err := observe.NewLogger(&logtest.Buffer{}, "info", "json")
	require.NoError(t, err)
	_, err = New(t.Context(), s, "test", logger)
	require.ErrorContains(t, err, "reports.sinks.main: spool "+filepath.Join(directory, "main")+": locked")
	assert.ErrorContains(t, err, "stop the other process or give each a directory of its own")
}

// A directory that cannot be written refuses reports and leaves checks alone.
func TestAFaultOfTheSpoolRefusesReportsAndNoChecks(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root may write everywhere, so the fault is a directory that is gone.
		t.Log("as root, the directory is removed")
	}
	directory := t.TempDir()
	s := start(t, func(s *settings.Settings) {
		toFiles(s, t.TempDir(), "main")
		s.Reports.Directory = directory
	})
	logEntries := mixer.ReportServices()[0]
	assert.Equal(t, healthpb.HealthCheckResponse_SERVING, s.health(t, logEntries))
	require.NoError(t, os.RemoveAll(filepath.Join(directory, "main")))
	// Segments are open; the fault shows when the next one is begun.
	large := map[string]string{"n": strings.Repeat("x", 1<<20)}
	var err error
	require.Eventually(t, func() bool {
		err = s.tryReport(t, &configpb.Params{}, large)
		return err != nil
	}, patience, time.Millisecond)
	assert.Equal(t, codes.Unavailable, status.Code(err), err)
	require.Eventually(t, func() bool { return s.health(t, logEntries) == healthpb.HealthCheckResponse_NOT_SERVING }, patience, 10*time.Millisecond)
	assert.Equal(t, healthpb.HealthCheckResponse_SERVING, s.health(t, mixer.CheckServices()[0]))
	code, body := s.get(t, "/readyz/reports")
	assert.Equal(t, 503, code)
	assert.Contains(t, body, "reports.sinks.main: spool ")
	code, _ = s.get(t, "/readyz")
	assert.Equal(t, 200, code)
	assert.Zero(t, s.send(t, mixertest.Call(&configpb.Params{AuthKey: proto.String("abc")}, "abc")).Status.Code)
}

func TestDecisionsAreRecords(t *testing.T) {
	const secret = "planted-secret"
	out := t.TempDir()
	s := start(t, func(s *settings.Settings) { toFiles(s, out, "main", "audit") })
	params := func(record configpb.DecisionLog_Record) *configpb.Params {
		return &configpb.Params{
			Name: strings.ToLower(record.String()), AuthKey: proto.String(secret),
			DecisionLog: &configpb.DecisionLog{Record: record, Sinks: []string{"audit"}, Mask: []string{"subject.user"}, Drop: []string{"action.path"}},
		}
	}
	denials, all := params(configpb.DecisionLog_DENIALS), params(configpb.DecisionLog_ALL)
	for _, c := range []struct {
		params *configpb.Params
		token  string
	}{{params(configpb.DecisionLog_OFF), "no"}, {denials, secret}, {denials, "planted-attempt"}, {all, secret}, {all, "no"}} {
		result := s.send(t, mixertest.Call(c.params, c.token))
		assert.Equal(t, c.token == secret, result.Status.Code == 0)
		if c.token != secret && c.params.GetName() != "off" {
			assert.Regexp(t, `^not authorized \(decision [a-z2-7]{16}\)$`, result.Status.Message)
		} else if c.token != secret {
			assert.Equal(t, "not authorized", result.Status.Message)
		}
	}
	require.NoError(t, s.end(t), "the end waits for decisions that are no records yet")
	var got []string
	for _, line := range lines(t, filepath.Join(out, "audit.jsonl")) {
		assert.Equal(t, "decision", line["kind"])
		assert.Len(t, line["decision_id"], 16)
		assert.Equal(t, "authinstance.instance.istio-system", line["instance"])
		assert.NotEmpty(t, line["revision"])
		assert.Equal(t, map[string]any{
			"subject": map[string]any{"user": "***", "properties": map[string]any{config.AuthKeyProperty: "***"}},
			"action":  map[string]any{"namespace": "default", "service": "bookings", "method": "GET"},
		}, line["input"])
		got = append(got, line["handler"].(string)+" "+line["outcome"].(string)+" "+line["code"].(string))
	}
	slices.Sort(got)
	assert.Equal(t, []string{"all allow OK", "all deny PERMISSION_DENIED", "denials deny PERMISSION_DENIED"}, got)
	content, err := os.ReadFile(filepath.Join(out, "audit.jsonl"))
	require.NoError(t, err)
	assert.NotContains(t, string(content), "planted")
	assert.Empty(t, lines(t, filepath.Join(out, "main.jsonl")))
}

// Neither a secret, nor a check's configuration, nor what is masked gets to the disk.
func TestNothingHiddenIsInTheSpool(t *testing.T) {
	directory, out := t.TempDir(), t.TempDir()
	blocked := filepath.Join(out, "blocked") // nothing is delivered, so all is in the spool
	require.NoError(t, os.WriteFile(blocked, nil, 0o600))
	s := start(t, func(s *settings.Settings) {
		toFiles(s, blocked, "main")
		s.Reports.Directory, s.Reports.Flush = directory, 0
	})
	params := &configpb.Params{
		Name: "shop", AuthKey: proto.String("planted-key"),
		Policy: []string{"package planted_policy\nallow = true"}, CheckMethod: proto.String("data.planted_policy.allow"),
		Headers:     []*configpb.HeaderCheck{{SubjectProperty: proto.String("p"), Values: []string{"planted-expected"}}},
		Denial:      &configpb.Denial{Message: "planted denial"},
		Report:      &configpb.Report{Mask: []string{"mask*"}, Drop: []string{"dropped"}},
		DecisionLog: &configpb.DecisionLog{Record: configpb.DecisionLog_ALL, Mask: []string{"*"}},
	}
	s.report(t, params, map[string]string{"masked": "planted-masked", "dropped": "planted-dropped", "kept": "visible-value"})
	s.send(t, mixertest.Call(params, "planted-attempt"))
	broken := proto.CloneOf(params)
	broken.Report.Only = []string{""}
	s.report(t, broken, map[string]string{"any": "planted-any"})
	require.NoError(t, s.end(t))
	files := map[string]bool{}
	require.NoError(t, filepath.WalkDir(directory, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		assert.NotContains(t, string(content), "planted", path)
		files[filepath.Base(path)] = strings.Contains(string(content), "visible-value")
		return err
	}))
	assert.Contains(t, slices.Collect(maps.Values(files)), true, "the records are there")
}

// What only a sink itself can tell about its settings ends the start too, with the key, and leaves nothing open.
func TestSinksRefuseTheirSettings(t *testing.T) {
	directory := t.TempDir()
	for name, c := range map[string]struct {
		sink    settings.Sink
		problem string
	}{
		"file":       {settings.Sink{File: &settings.FileSink{Path: directory}}, fmt.Sprintf("path is %q, which is a directory; name a file", directory)},
		"otlp":       {settings.Sink{OTLP: &settings.OTLPSink{Protocol: "smoke"}}, `protocol is "smoke"; use "grpc" or "http"`},
		"kafka":      {settings.Sink{Kafka: &settings.KafkaSink{}}, "brokers is empty; name at least one as host:port"},
		"http":       {settings.Sink{HTTP: &settings.HTTPSink{}}, "url "},
		"prometheus": {settings.Sink{Prometheus: &settings.PrometheusSink{MaxSeries: 1}}, "max_series is 1; use 100 to 1000000"},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings.Default()
			s.Listen, s.Admin = "127.0.0.1:0", ""
			s.Reports = settings.Reports{
				Directory: directory, DefaultSinks: []string{"good"},
				Sinks: map[string]settings.Sink{"good": {Stdout: &settings.StdoutSink{}}, "z-bad": c.sink},
			}
			require.NoError(t, s.Validate())
			logger, err := observe.NewLogger(&logtest.Buffer{}, "info", "json")
			require.NoError(t, err)
			_, err = New(t.Context(), s, "test", logger)
			require.Error(t, err)
			for line := range strings.Lines(err.Error()) {
				assert.Regexp(t, `^reports\.sinks\.z-bad\.`+name+`\.`, line)
			}
			assert.ErrorContains(t, err, "."+c.problem)
		})
	}
}

// Series that a sink keeps have a page of their own.
func TestSeriesAreServed(t *testing.T) {
	s := start(t, func(s *settings.Settings) {
		s.Reports.Sinks = map[string]settings.Sink{"series": {Prometheus: &settings.PrometheusSink{Namespace: "mesh"}, Batch: settings.Batch{Wait: time.Millisecond}}}
	})
	call := mixertest.Metrics(mixertest.Params(&configpb.Params{Name: "a"}), "requests.instance.ns", 3)
	require.NoError(t, mixertest.SendReport(t.Context(), s.connection, mixertest.MetricMethod, call))
	s.report(t, &configpb.Params{Name: "a"}, map[string]string{"n": "1"})
	require.Eventually(t, func() bool {
		code, body := s.get(t, "/metrics/series")
		return code == 200 && strings.Contains(body, "\nmesh_requests_total 3\n")
	}, patience, time.Millisecond)
	require.Eventually(t, func() bool {
		_, body := s.get(t, "/metrics")
		return strings.Contains(body, `tollgate_report_filtered_total{sink="series"} 1`) && strings.Contains(body, `tollgate_report_series{sink="series"} 1`)
	}, patience, time.Millisecond)
	code, _ := s.get(t, "/metrics/other")
	assert.Equal(t, 404, code)
}
