package observe_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/decisionlog"
	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/adapter/readiness"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/deadletter"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
	"github.com/tollgate-mesh/tollgate/adapter/tracing"
	"github.com/tollgate-mesh/tollgate/adapter/transport"
	"github.com/tollgate-mesh/tollgate/config"
)

// lines returns what was logged since the last call, and checks that it is JSON, one object a line.
func lines(t *testing.T, written *logtest.Buffer) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(written.Take()) {
		fields := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(line), &fields), line)
		assert.NotContains(t, line, "planted")
		delete(fields, "time")
		all = append(all, fields)
	}
	return all
}

func newObserver(t *testing.T, level string) (*observe.Observer, *logtest.Buffer) {
	t.Helper()
	written := &logtest.Buffer{}
	logger, err := observe.NewLogger(written, level, "json")
	require.NoError(t, err)
	return observe.New(logger, "v1.2.3"), written
}

// samples returns the values of a counter, or a histogram's counts, by "label=value" in the order of the labels' names.
func samples(t *testing.T, o *observe.Observer, name string) map[string]int {
	t.Helper()
	families, err := o.Registry().Gather()
	require.NoError(t, err)
	found := map[string]int{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			found[strings.Join(labels, ",")] = int(metric.GetCounter().GetValue()+metric.GetGauge().GetValue()) + int(metric.GetHistogram().GetSampleCount())
		}
	}
	return found
}

var (
	shop  = &config.Handler{Name: "shop", Fingerprint: "0123456789ab"}
	allow = policy.Decision{Lifetime: config.Lifetime{Duration: 5 * time.Second, Uses: 100}, Check: "header/key", Reason: "header_match", Revision: "0123456789ab"}
)

func failure(class config.FailureClass, detail string) policy.Decision {
	return policy.Fail(class, "%s", detail).Resolve(config.Modes{}.With(config.Timeout, config.Open))
}

func TestDecisionsAreCounted(t *testing.T) {
	t.Parallel()
	o, _ := newObserver(t, "error")
	for range 3 {
		o.Decided(shop, "i", allow, time.Millisecond)
	}
	o.Decided(shop, "i", policy.Decision{Code: config.PermissionDenied}, time.Millisecond)
	o.Decided(shop, "i", failure(config.Timeout, "d"), time.Millisecond)
	o.Decided(shop, "i", failure(config.DependencyDown, "d"), time.Millisecond)
	o.Decided(nil, "i", failure(config.MalformedRequest, "d"), time.Millisecond)
	assert.Equal(t, map[string]int{
		"class=none,handler=shop,outcome=allow":                         3,
		"class=none,handler=shop,outcome=deny":                          1,
		"class=timeout,handler=shop,outcome=failed_open":                1,
		"class=dependency_down,handler=shop,outcome=failed_closed":      1,
		"class=malformed_request,handler=unknown,outcome=failed_closed": 1,
	}, samples(t, o, "tollgate_decisions_total"))
	assert.Equal(t, map[string]int{"outcome=allow": 3, "outcome=deny": 1, "outcome=failed_open": 1, "outcome=failed_closed": 2},
		samples(t, o, "tollgate_decision_seconds"))
	assert.Equal(t, map[string]int{"version=v1.2.3": 1}, samples(t, o, "tollgate_build_info"))
}

// Operators choose names, and unnamed handlers are called by a fingerprint: without a bound every change would be a new series.
func TestHandlerLabelsAreBounded(t *testing.T) {
	t.Parallel()
	o, _ := newObserver(t, "error")
	for round := range 2 {
		for i := range 300 {
			o.Decided(&config.Handler{Name: fmt.Sprint("h", i)}, "i", allow, 0)
		}
		counts := samples(t, o, "tollgate_decisions_total")
		assert.Len(t, counts, 201)
		assert.Equal(t, 100*(round+1), counts["class=none,handler=other,outcome=allow"])
		assert.Equal(t, round+1, counts["class=none,handler=h199,outcome=allow"])
	}
}

func TestDecisionLine(t *testing.T) {
	t.Parallel()
	o, written := newObserver(t, "debug")
	o.Decided(shop, "auth.instance.ns", allow, 1500*time.Microsecond)
	assert.Equal(t, []map[string]any{{
		"level": "DEBUG", "msg": "decision", "handler": "shop", "instance": "auth.instance.ns", "outcome": "allow", "code": "OK", "check": "header/key",
		"reason": "header_match", "valid_duration": "5s", "valid_use_count": 100.0, "revision": "0123456789ab", "cached": false, "elapsed": "1.5ms",
	}}, lines(t, written))

	o.Decided(shop, "auth.instance.ns", failure(config.Timeout, "check rego took longer than its budget"), time.Second)
	assert.Equal(t, []map[string]any{
		{
			"level": "WARN", "msg": "a check failed", "handler": "shop", "outcome": "failed_open", "class": "timeout",
			"detail": "check rego took longer than its budget", "like_this_since_last_line": 0.0,
		},
		{
			"level": "DEBUG", "msg": "decision", "handler": "shop", "instance": "auth.instance.ns", "outcome": "failed_open", "code": "OK", "check": "",
			"reason": "timeout", "valid_duration": "-1s", "valid_use_count": 1.0, "revision": "", "cached": false, "elapsed": "1s",
		},
	}, lines(t, written))

	// What a caller is told may hold what the policy took from the request, and the handler holds digests.
	secret := policy.Decision{
		Code: config.Unauthenticated, Message: "planted message",
		HTTP: &config.HTTPResponse{Status: 401, Body: "planted body", Headers: map[string]string{"X-Planted": "planted"}},
	}
	holder := &config.Handler{
		Name: "holder", Headers: []config.HeaderCheck{{Secrets: []string{"planted"}}}, Rego: &config.RegoPolicy{Modules: []string{"planted"}},
		Denial: config.Denial{Message: "planted"},
	}
	o.Decided(holder, "auth.instance.ns", secret, 0)
	assert.Len(t, lines(t, written), 1, "lines looks for what was planted")
}

func TestNoDecisionLineAtInfo(t *testing.T) {
	t.Parallel()
	o, written := newObserver(t, "info")
	o.Decided(shop, "i", allow, 0)
	o.Decided(shop, "i", policy.Decision{Code: config.PermissionDenied}, 0)
	assert.Empty(t, lines(t, written))
}

func TestFailuresAreThrottled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, written := newObserver(t, "info")
		fail := func(h *config.Handler, class config.FailureClass, times int) {
			for range times {
				o.Decided(h, "i", failure(class, "d"), 0)
			}
		}
		summary := func() []string {
			var all []string
			for _, line := range lines(t, written) {
				all = append(all, fmt.Sprint(line["handler"], " ", line["class"], " ", line["like_this_since_last_line"]))
			}
			return all
		}
		other := &config.Handler{Name: "other-shop"}
		fail(shop, config.Timeout, 100)
		fail(shop, config.Panic, 2)
		fail(other, config.Timeout, 2)
		assert.Equal(t, []string{"shop timeout 0", "shop panic 0", "other-shop timeout 0"}, summary(), "one line a handler and class")

		time.Sleep(9 * time.Second)
		fail(shop, config.Timeout, 1)
		assert.Empty(t, summary())
		time.Sleep(2 * time.Second)
		fail(shop, config.Timeout, 5)
		assert.Equal(t, []string{"shop timeout 100"}, summary(), "and what was held back is counted")
		time.Sleep(11 * time.Second)
		fail(shop, config.Timeout, 1)
		assert.Equal(t, []string{"shop timeout 4"}, summary())
	})
}

// However many handlers fail, the memory for their throttles and the log stay bounded.
func TestThrottlesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, written := newObserver(t, "warn")
		for i := range 3000 {
			handler := &config.Handler{Name: fmt.Sprint("h", i)}
			o.Compiled(policy.Broken(handler, policy.Fail(config.ConfigurationFailure, "d")), 0)
		}
		assert.Len(t, lines(t, written), 1001)
		for i := range 3000 {
			o.Decided(&config.Handler{Name: fmt.Sprint("h", i)}, "i", failure(config.Panic, "d"), 0)
		}
		assert.Len(t, lines(t, written), 201)
	})
}

// Whoever knocked long ago, from however many addresses, keeps nobody's refusal out of the log.
func TestThrottlesForget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o, written := newObserver(t, "warn")
		refused := func(i int) {
			o.Refused(transport.Refusal{Reason: transport.NotTLS, Peer: fmt.Sprintf("192.0.%d.%d:1", i/250, i%250)})
		}
		for i := range 3000 {
			refused(i)
		}
		assert.Len(t, lines(t, written), 1001)
		time.Sleep(time.Hour)
		for i := range 10 {
			refused(5000 + i)
			refused(5000 + i)
		}
		assert.Len(t, lines(t, written), 10)
	})
}

// check passes everybody.
type check struct{}

func (check) Name() string                                             { return "stub" }
func (check) Cost() policy.Cost                                        { return policy.Instant }
func (check) Evaluate(context.Context, *policy.Request) policy.Verdict { return policy.Pass("") }
func (check) Compile(*config.Handler) ([]policy.Check, config.Problems) {
	return []policy.Check{check{}}, nil
}

func TestCompiled(t *testing.T) {
	t.Parallel()
	o, written := newObserver(t, "info")
	compiler := &policy.Compiler{Kinds: []policy.Kind{check{}}}
	opened := *shop
	opened.Modes = config.Modes{}.With(config.ConfigurationFailure, config.Open)
	opened.Headers = []config.HeaderCheck{{Name: "planted", Secrets: []string{"planted"}}}

	o.Compiled(compiler.Compile(&opened, nil), time.Millisecond)
	assert.Equal(t, []map[string]any{{
		"level": "INFO", "msg": "handler compiled", "handler": "shop", "fingerprint": "0123456789ab", "checks": []any{"stub"},
		"modes": "open: configuration", "elapsed": "1ms",
	}}, lines(t, written))

	o.Compiled(compiler.Compile(&opened, config.Problems{{Field: "a", Text: "b"}, {Field: "c", Text: "d"}}), time.Millisecond)
	o.Compiled(compiler.Compile(&opened, config.Problems{{Field: "a", Text: "b"}}), time.Millisecond)
	assert.Equal(t, []map[string]any{{
		"level": "WARN", "msg": "a handler cannot decide", "handler": "shop", "fingerprint": "0123456789ab", "class": "configuration",
		"mode": "open", "detail": "a: b; c: d", "like_this_since_last_line": 0.0,
	}}, lines(t, written))

	o.Compiled(policy.Broken(shop, policy.Fail(config.Panic, "d")), time.Millisecond)
	assert.Equal(t, map[string]int{"result=ok": 1, "result=configuration": 2, "result=panic": 1}, samples(t, o, "tollgate_handlers_compiled_total"))
}

// docs/observability.md names every metric with its labels, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	o, _ := newObserver(t, "error")
	pipeline := newPipeline(t, &sinkhole{})
	o.CountReports(pipeline)
	o.CountDecisionLog(decisionlog.New(pipeline, decisionlog.Options{}))
	o.CountSecrets(func() []string { return nil })
	o.CountKeySets(func() map[string]follow.Stats { return nil })
	o.CountLists(func() map[string]follow.Stats { return nil })
	o.CountHtpasswd(func() map[string]follow.Stats { return nil })
	o.CountDecisionCache(func() rego.CacheStats { return rego.CacheStats{} })
	o.CountPolicies(func() map[string]rego.Stats { return nil })
	o.CountSinks(map[string]report.Sink{"s": &counting{}})
	o.CountTransport(access{})
	o.CountTraces(tracing.New(tracing.Options{}))
	o.CountReadiness((&readiness.Conditions{}).For)
	o.CountQuotas(func() int { return 0 })
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		o.Registry().Describe(descriptions)
	}()
	got := map[string][]string{}
	form := regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: "(.*)", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
	for description := range descriptions {
		parts := form.FindStringSubmatch(description.String())
		require.NotNil(t, parts, description)
		if strings.HasPrefix(parts[1], "go_") || strings.HasPrefix(parts[1], "process_") {
			continue
		}
		assert.NotEmpty(t, parts[2], parts[1])
		labels := regexp.MustCompile(`[a-z_]+`).FindAllString(regexp.MustCompile(`="[^"]*"`).ReplaceAllString(parts[3], "")+" "+parts[4], -1)
		slices.Sort(labels)
		got[parts[1]] = labels
	}

	content, err := os.ReadFile("../../docs/observability.md")
	require.NoError(t, err)
	documented := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(tollgate_[a-z_]+)` \\|([^|]*)\\|").FindAllStringSubmatch(string(content), -1) {
		labels := regexp.MustCompile("[a-z_]+").FindAllString(row[2], -1)
		slices.Sort(labels)
		documented[row[1]] = labels
	}
	assert.Equal(t, documented, got)
	assert.NotEmpty(t, slices.Collect(maps.Keys(got)))
}

// counting is a sink that counts.
type counting struct{ sinkhole }

func (*counting) Series() int        { return 3 }
func (*counting) Overflowed() uint64 { return 2 }
func (*counting) Rejected() uint64   { return 1 }

// sinkhole takes everything, or refuses it for good.
type sinkhole struct{ refuse error }

func (s *sinkhole) Deliver(context.Context, []record.Record) error { return s.refuse }
func (*sinkhole) Close(context.Context) error                      { return nil }

// newPipeline is one with the sink "main" and room in memory, which runs until the test ends.
func newPipeline(t *testing.T, sink report.Sink) *report.Pipeline {
	t.Helper()
	queue, err := spool.NewMemory(spool.Options{})
	require.NoError(t, err)
	logger := slog.New(slog.DiscardHandler)
	pipeline, err := report.NewPipeline([]report.Lane{{
		Name: "main", Sink: sink, Queue: queue, DeadLetters: deadletter.NewDiscarder("main", logger),
		Batching: report.Batching{
			Records: 10, Bytes: 1 << 20, Wait: time.Millisecond, Concurrency: 1, Timeout: time.Second, Backoff: time.Millisecond, MaxBackoff: time.Second,
		},
	}}, logger)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- pipeline.Run(ctx, 0) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	return pipeline
}

func TestAccountsAreMetrics(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		refuse                  error
		delivered, dead, failed int
	}{"delivered": {nil, 3, 0, 0}, "refused for good": {report.Permanent(errors.New("no")), 0, 3, 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, _ := newObserver(t, "error")
			pipeline := newPipeline(t, &sinkhole{refuse: c.refuse})
			o.CountReports(pipeline)
			require.NoError(t, pipeline.Accept(t.Context(), &report.Call{Kind: record.KindNothing, Handler: "shop", Instances: []string{"", "", ""}}))
			value := func(name, labels string) int { return samples(t, o, name)[labels] }
			require.Eventually(t, func() bool { return value("tollgate_report_pending", "sink=main") == 0 }, 30*time.Second, time.Millisecond)
			assert.Equal(t, 3, value("tollgate_report_accepted_total", "sink=main"))
			assert.Equal(t, c.delivered, value("tollgate_report_delivered_total", "sink=main"))
			assert.Equal(t, c.dead, value("tollgate_report_dead_lettered_total", "sink=main"))
			assert.Equal(t, c.failed, value("tollgate_report_deliveries_total", "result=failed,sink=main"))
			assert.Equal(t, 1-c.failed, value("tollgate_report_deliveries_total", "result=ok,sink=main"))
			assert.Len(t, samples(t, o, "tollgate_report_dropped_total"), 5)
			assert.Empty(t, samples(t, o, "tollgate_report_queue_fault"))
		})
	}
}

func TestTheDecisionCacheIsCounted(t *testing.T) {
	t.Parallel()
	o, _ := newObserver(t, "error")
	o.CountDecisionCache(func() rego.CacheStats { return rego.CacheStats{Hits: 1, Misses: 2, Evictions: 3, Entries: 4, Bytes: 5} })
	for name, want := range map[string]int{"hits_total": 1, "misses_total": 2, "evictions_total": 3, "entries": 4, "bytes": 5} {
		assert.Equal(t, map[string]int{"": want}, samples(t, o, "tollgate_decision_cache_"+name), name)
	}
}

// Who writes a policy that reads everything is told so, once, when it is compiled.
func TestWidePoliciesAreTold(t *testing.T) {
	t.Parallel()
	o, written := newObserver(t, "info")
	compiler := &policy.Compiler{Kinds: []policy.Kind{rego.Kind{}}}
	handler := *shop
	for module, because := range map[string][]any{
		"package p\nallow { walk(input, [_, 1]) }":    {"input as a value at policy[0]:2:14"},
		"package p\nallow { input.subject.user = 1 }": nil,
	} {
		handler.Rego = &config.RegoPolicy{Modules: []string{module}, Decision: "data.p.allow", Version: config.RegoV0}
		o.Compiled(compiler.Compile(&handler, nil), time.Millisecond)
		lines := lines(t, written)
		if because == nil {
			assert.Len(t, lines, 1)
			continue
		}
		require.Len(t, lines, 2)
		assert.Equal(t, map[string]any{
			"level": "WARN", "msg": "a handler's policy reads the whole input", "handler": "shop", "fingerprint": "0123456789ab", "because": because,
		}, lines[1])
	}
}

func TestListsAreCounted(t *testing.T) {
	t.Parallel()
	o, _ := newObserver(t, "error")
	o.CountLists(func() map[string]follow.Stats {
		return map[string]follow.Stats{
			"offices": {Size: 3, Loaded: true, Age: 7 * time.Second, Read: 4, Failed: 5},
			"blocked": {Failed: 1},
		}
	})
	assert.Equal(t, map[string]int{"list=offices": 3, "list=blocked": 0}, samples(t, o, "tollgate_list_entries"))
	assert.Equal(t, map[string]int{"list=offices": 7}, samples(t, o, "tollgate_list_age_seconds"))
	assert.Equal(t, map[string]int{
		"list=offices,result=ok": 4, "list=offices,result=failed": 5, "list=blocked,result=ok": 0, "list=blocked,result=failed": 1,
	}, samples(t, o, "tollgate_list_reads_total"))
}

func TestReportsAreCounted(t *testing.T) {
	t.Parallel()
	o, written := newObserver(t, "info")
	o.Reported(report.Reported{Handler: "shop", Kind: record.KindLogEntry, Instances: 9, Accepted: 5, Left: report.Left{Malformed: 1, Sampled: 3}})
	o.Reported(report.Reported{Handler: "shop", Kind: record.KindMetric, Instances: 2, Refused: report.Refuse("", &spool.Error{Class: spool.Full, Path: "p"})})
	o.Reported(report.Reported{Handler: "shop", Kind: record.KindMetric, Instances: 2, Refused: report.Refuse("", context.Canceled)})
	assert.Equal(t, map[string]int{
		"handler=shop,kind=logentry,result=accepted": 5, "handler=shop,kind=logentry,result=malformed": 1, "handler=shop,kind=logentry,result=sampled_out": 3,
		"handler=shop,kind=metric,result=refused": 4,
	}, samples(t, o, "tollgate_reports_total"))
	assert.Equal(t, map[string]int{"kind=logentry,result=ok": 1, "kind=metric,result=full": 1, "kind=metric,result=canceled": 1}, samples(t, o, "tollgate_report_calls_total"))
	var messages []any
	for _, line := range lines(t, written) {
		messages = append(messages, line["msg"])
	}
	assert.Equal(t, []any{"reported instances cannot be read and were left out; check the instance's expressions", "a report was refused", "a report was refused"}, messages)
}

func TestNewLogger(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	logger, err := observe.NewLogger(&b, "warn", "text")
	require.NoError(t, err)
	logger.Info("not this")
	logger.Warn("this", "error", errors.New("because"))
	assert.Regexp(t, `^time=\S+ level=WARN msg=this error=because\n$`, b.String())

	for _, level := range []string{"debug", "info", "warn", "error"} {
		logger, err := observe.NewLogger(&b, level, "json")
		require.NoError(t, err)
		var want slog.Level
		require.NoError(t, want.UnmarshalText([]byte(level)))
		assert.True(t, logger.Enabled(t.Context(), want))
		assert.False(t, logger.Enabled(t.Context(), want-1))
	}
	_, err = observe.NewLogger(&b, "loud", "json")
	require.EqualError(t, err, `log level is "loud"; use debug, info, warn or error`)
	_, err = observe.NewLogger(&b, "info", "xml")
	require.EqualError(t, err, `log format is "xml"; use json or text`)
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	o, _ := newObserver(t, "debug")
	const goroutines, each = 8, 200
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range each {
				handler := &config.Handler{Name: fmt.Sprint("h", (g+i)%250)}
				o.Decided(handler, "i", allow, 0)
				o.Decided(handler, "i", failure(config.Panic, "d"), 0)
				o.Compiled(policy.Broken(handler, policy.Fail(config.Panic, "d")), 0)
				if i%50 == 0 {
					_, err := o.Registry().Gather()
					assert.NoError(t, err)
				}
			}
		})
	}
	all.Wait()
	var total int
	for _, count := range samples(t, o, "tollgate_decisions_total") {
		total += count
	}
	assert.Equal(t, 2*goroutines*each, total)
}

func TestKeySetsAreCounted(t *testing.T) {
	t.Parallel()
	o, _ := newObserver(t, "error")
	o.CountKeySets(func() map[string]follow.Stats {
		return map[string]follow.Stats{"idp": {Size: 3, Age: 7 * time.Second, Loaded: true, Read: 5, Failed: 2}, "new": {Failed: 1}}
	})
	assert.Equal(t, map[string]int{"set=idp": 3, "set=new": 0}, samples(t, o, "tollgate_key_set_keys"))
	assert.Equal(t, map[string]int{"set=idp": 7}, samples(t, o, "tollgate_key_set_age_seconds"), "nothing is known of one that was never read")
	assert.Equal(t, map[string]int{"result=ok,set=idp": 5, "result=failed,set=idp": 2, "result=ok,set=new": 0, "result=failed,set=new": 1},
		samples(t, o, "tollgate_key_set_refreshes_total"))
}

func TestQuotasAreCounted(t *testing.T) {
	t.Parallel()
	o, _ := newObserver(t, "error")
	o.CountQuotas(func() int { return 5 })
	shop := &config.Handler{Name: "shop"}
	o.Decided(shop, "i", policy.Decision{Asked: 7, Granted: 7}, 0)
	o.Decided(shop, "i", policy.Decision{Asked: 7, Granted: 3}, 0)
	o.Decided(shop, "i", policy.Decision{Code: config.ResourceExhausted, Asked: 7}, 0)
	o.Decided(shop, "i", policy.Decision{Code: config.Unavailable, Asked: 7, Failure: policy.Fail(config.Timeout, "")}, 0)
	o.Decided(nil, "i", policy.Decision{Asked: 7, Granted: 7, Failure: policy.Fail(config.Timeout, "")}, 0)
	o.Decided(shop, "i", policy.Decision{}, 0)
	assert.Equal(t, map[string]int{"handler=shop,result=granted": 10, "handler=shop,result=refused": 11, "handler=shop,result=failed_closed": 7, "handler=unknown,result=failed_open": 7},
		samples(t, o, "tollgate_quota_amount_total"))
	assert.Equal(t, map[string]int{"": 5}, samples(t, o, "tollgate_quota_counts"))
	assert.Equal(t, map[string]int{
		"class=none,handler=shop,outcome=allow": 3, "class=none,handler=shop,outcome=deny": 1, "class=timeout,handler=shop,outcome=failed_closed": 1, "class=timeout,handler=unknown,outcome=failed_open": 1,
	}, samples(t, o, "tollgate_decisions_total"))
}
