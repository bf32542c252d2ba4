// Command demo shows Tollgate at work: it starts the adapter and the real Mixer of Istio 1.7.8 with the examples of
// operatorconfig/, asks Mixer about requests and quotas and reports them as a proxy does, and prints what was decided and why, what a
// candidate would have decided, and what was recorded.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
)

// exampleAddress stands in the examples where a cluster has its Service.
const exampleAddress = "dns:///tollgate.istio-system.svc.cluster.local:44225"

//go:embed failures.yaml
var failures string

// request is one row of the demo.
type request struct {
	title   string
	path    string
	headers map[string]string
}

// oldKey is what the candidate of the example shadow turns away.
var oldKey = request{"token, an old partner key", "/partners/7", map[string]string{"x-custom-token": "abc", "x-partner-key": "old-4711"}}

var requests = []request{
	{"the right token", "/reviews/1", map[string]string{"x-custom-token": "abc"}},
	{"a wrong token", "/reviews/1", map[string]string{"x-custom-token": "xyz"}},
	{"no token", "/reviews/1", nil},
	{"an empty token", "/reviews/1", map[string]string{"x-custom-token": ""}},
	{"token, bucket-admins read", "/buckets/7", map[string]string{"x-custom-token": "abc", "x-user-group": "bucket-admins", "x-method": "storage.buckets.get"}},
	{"token, bucket-admins delete", "/buckets/7", map[string]string{"x-custom-token": "abc", "x-user-group": "bucket-admins", "x-method": "storage.buckets.delete"}},
	{"the same, another bucket", "/buckets/8", map[string]string{"x-custom-token": "abc", "x-user-group": "bucket-admins", "x-method": "storage.buckets.get"}},
	{"token, guests read", "/buckets/7", map[string]string{"x-custom-token": "abc", "x-user-group": "guests", "x-method": "storage.buckets.get"}},
	oldKey,
	{"token, policy is broken", "/broken-closed", map[string]string{"x-custom-token": "abc"}},
	{"token, broken but opened", "/broken-open", map[string]string{"x-custom-token": "abc"}},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	binaries, err := mesh.FindBinaries()
	if err != nil {
		return err
	}
	started := time.Now()
	directory, err := os.MkdirTemp("", "tollgate-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	accessLog := filepath.Join(directory, "access.jsonl")
	tollgate, err := mesh.StartTollgate(ctx, mesh.TollgateOptions{
		Binaries: binaries, Args: []string{"--log-level", "debug"},
		Settings: fmt.Sprintf(settings, filepath.Join(directory, "spool"), accessLog),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tollgate.Close()) }()

	resources := map[string]string{"failures": failures}
	for name, path := range map[string]string{
		"tollgate":    "operatorconfig/tollgate.yaml",
		"auth-header": "operatorconfig/examples/auth-header.yaml",
		"rego":        "operatorconfig/examples/rego.yaml",
		"access-log":  "operatorconfig/examples/access-log.yaml",
		"metrics":     "operatorconfig/examples/metrics.yaml",
		"quota":       "operatorconfig/examples/quota.yaml",
		"shadow":      "operatorconfig/examples/shadow.yaml",
	} {
		text, err := os.ReadFile(filepath.Join(binaries.Root, path))
		if err != nil {
			return err
		}
		resources[name] = string(text)
	}
	for name, text := range resources {
		// Without a store, quotas are counted in memory: there is no Redis here.
		// Half a second is for traffic; a machine that compiles something else beside the demo may take longer for the first check.
		resources[name] = strings.NewReplacer(exampleAddress, tollgate.Addr, "      store: main\n", "", "timeout: 500ms", "timeout: 10s").Replace(text)
	}
	mixer, err := mesh.StartMixer(ctx, mesh.Versions[0], mesh.MixerOptions{Binaries: binaries, Resources: resources})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mixer.Close()) }()
	if problems := mixer.ConfigErrors(); len(problems) > 0 {
		return fmt.Errorf("mixer rejects the configuration: %s", strings.Join(problems, "; "))
	}
	fmt.Printf("Tollgate and the real Mixer of Istio %s run (started in %.1fs), with operatorconfig/tollgate.yaml and its examples\n"+
		"auth-header, rego, quota, shadow, access-log and metrics. Mixer is asked about each request as a proxy would ask.\n\n", mixer.Version, time.Since(started).Seconds())

	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "REQUEST\tPATH\tDECISION\tREASON\tLIFETIME\tTHE CALLER IS TOLD")
	_, _ = fmt.Fprintln(table, "-------\t----\t--------\t------\t--------\t------------------")
	var reports []mesh.Attributes
	for _, r := range requests {
		mark := tollgate.Log.Mark()
		verdict, err := mixer.Check(ctx, attributes(r))
		if err != nil {
			return fmt.Errorf("%s: %w", r.title, err)
		}
		told := ""
		if !verdict.OK() {
			told = verdict.Message
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", r.title, r.path, decision(verdict), reasons(tollgate.Log.Since(mark)), lifetime(verdict), told)
		reports = append(reports, report(r, verdict))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := showQuota(ctx, mixer); err != nil {
		return err
	}
	if err := showCandidate(ctx, mixer, tollgate.AdminAddr); err != nil {
		return err
	}
	if err := showDenial(ctx, tollgate.AdminAddr); err != nil {
		return err
	}
	if err := mixer.Report(ctx, reports...); err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	if err := showRecords(ctx, accessLog, len(reports), tollgate.AdminAddr); err != nil {
		return err
	}
	fmt.Print(next)
	return nil
}

// showQuota asks twice for more than half of what a client has in a minute.
func showQuota(ctx context.Context, mixer *mesh.Mixer) error {
	fmt.Print("\nThe quota of the client trial is 30 requests a minute. A proxy asks ahead for 20, and for 20 again:\n\n")
	client := attributes(request{path: "/reviews/1", headers: map[string]string{"x-custom-token": "abc", "x-client": "trial"}})
	for range 2 {
		verdict, err := mixer.CheckQuota(ctx, client, map[string]int64{"requests": 20})
		if err != nil {
			return fmt.Errorf("quota: %w", err)
		}
		granted := verdict.Quotas["requests"]
		fmt.Printf("  %d granted, valid for %s\n", granted.Granted, granted.ValidFor.Round(time.Second))
	}
	return nil
}

// showCandidate prints what the candidate of the handler partners would have said. Where it was not compiled yet it asks again.
func showCandidate(ctx context.Context, mixer *mesh.Mixer, admin string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	fmt.Print("\nThe handler partners has a candidate without the old key. It decides nothing; it would have denied the request above:\n\n")
	asked := 1
	return mesh.WaitFor(ctx, "the candidate", func(ctx context.Context) error {
		found, err := samples(ctx, "http://"+admin+"/metrics", "tollgate_shadow_")
		switch {
		case err != nil:
			return err
		case strings.Contains(found, "tollgate_shadow_decisions_total{"):
			fmt.Print(found)
			return nil
		case strings.Contains(found, fmt.Sprintf(`reason="compiling"} %d`, asked)):
			asked++
			if _, err := mixer.Check(ctx, attributes(oldKey)); err != nil {
				return err
			}
		}
		return errors.New("has not answered")
	})
}

// showDenial prints why the last request was denied, as the admin listener tells programs.
func showDenial(ctx context.Context, admin string) error {
	body, err := get(ctx, "http://"+admin+"/status.json")
	if err != nil {
		return err
	}
	type decision struct {
		Time    time.Time `json:"time"`
		Handler string    `json:"handler"`
		Outcome string    `json:"outcome"`
		Code    string    `json:"code"`
		Check   string    `json:"check"`
		Reason  string    `json:"reason"`
	}
	var status struct {
		Handlers []struct {
			Refusals []decision `json:"refusals"`
		} `json:"handlers"`
	}
	if err := json.Unmarshal(body, &status); err != nil {
		return fmt.Errorf("status.json: %w", err)
	}
	var last decision
	for _, handler := range status.Handlers {
		for _, refusal := range handler.Refusals {
			if refusal.Outcome == "deny" && refusal.Time.After(last.Time) {
				last = refusal
			}
		}
	}
	if last.Time.IsZero() {
		return errors.New("status.json has no denial")
	}
	line, err := json.Marshal(last)
	if err != nil {
		return err
	}
	fmt.Printf("\nWhy the last request was denied: on the page of the admin listener, http://%s/ while the demo runs, and in its /status.json:\n\n  %s\n", admin, line)
	return nil
}

// settings are those of the examples access-log and metrics, in one process, and time for a machine that is busy with other things.
const settings = `
evaluation_timeout: 5s
reports:
  directory: %q
  default_sinks: [access-log]
  sinks:
    access-log: {file: {path: %q}}
    metrics: {prometheus: {}}
`

// report is what a proxy tells Mixer about a request when it is over.
func report(r request, v *mesh.Verdict) mesh.Attributes {
	status := map[codes.Code]int64{codes.OK: 200, codes.PermissionDenied: 403}[v.Code]
	if status == 0 {
		status = 503
	}
	return attributes(r).With(mesh.Attributes{
		"request.time":                   time.Now(),
		"response.code":                  status,
		"response.duration":              1500 * time.Microsecond,
		"response.total_size":            int64(4183),
		"source.principal":               "cluster.local/ns/default/sa/somebody",
		"source.workload.name":           "productpage-v1",
		"destination.workload.name":      "reviews-v1",
		"destination.service.name":       "reviews",
		"destination.service.host":       "reviews.default.svc.cluster.local",
		"destination.workload.namespace": "default",
	})
}

// showRecords prints what the report became: lines of JSON, series for Prometheus, and the accounts of both.
func showRecords(ctx context.Context, accessLog string, want int, admin string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := mesh.WaitFor(ctx, "the delivery", func(ctx context.Context) error {
		pending, err := samples(ctx, "http://"+admin+"/metrics", "tollgate_report_pending{")
		if err == nil && strings.Count(pending, "} 0\n") != 2 {
			err = errors.New(pending)
		}
		if err != nil {
			return err
		}
		recorded, err := samples(ctx, "http://"+admin+"/metrics", "tollgate_decision_log_recorded_total 1")
		if err == nil && recorded == "" {
			err = errors.New("the candidate's decision is not recorded")
		}
		return err
	}); err != nil {
		return err
	}
	content, err := os.ReadFile(accessLog)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	entries := slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, `"kind":"logentry"`) })
	if len(entries) != want {
		return fmt.Errorf("the access log has %d entries, not %d", len(entries), want)
	}
	fmt.Printf("\nThe requests of the table were reported through Mixer and kept before it was answered. %d are in the access log; the first:\n\n%s\n"+
		"\nBeside them is the decision of which the candidate thinks otherwise, with what it would have said.\n", want, entries[0])

	fmt.Print("\nSeries for Prometheus, on the admin listener at /metrics/metrics:\n\n")
	series, err := samples(ctx, "http://"+admin+"/metrics/metrics", "istio_requests_total{")
	if err != nil {
		return err
	}
	accounts, err := samples(ctx, "http://"+admin+"/metrics", "tollgate_report_accepted_total{", "tollgate_report_delivered_total{", "tollgate_report_pending{")
	if err != nil {
		return err
	}
	fmt.Printf("%s\nThe accounts: accepted + recovered = delivered + filtered + dead_lettered + dropped + pending.\n\n%s", series, accounts)
	return nil
}

// samples returns the samples of a page of metrics that begin with one of the prefixes, indented.
func samples(ctx context.Context, url string, prefixes ...string) (string, error) {
	page, err := get(ctx, url)
	if err != nil {
		return "", err
	}
	var found strings.Builder
	for line := range strings.Lines(string(page)) {
		if slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(line, prefix) }) {
			found.WriteString("  " + line)
		}
	}
	return found.String(), nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

func attributes(r request) mesh.Attributes {
	headers := r.headers
	if headers == nil {
		headers = map[string]string{}
	}
	return mesh.Attributes{
		"context.reporter.kind": "inbound",
		"destination.namespace": "default",
		"request.path":          r.path,
		"request.method":        "GET",
		"request.headers":       headers,
	}
}

func decision(v *mesh.Verdict) string {
	if v.OK() {
		return "ALLOW"
	}
	return "DENY " + code.Code(v.Code).String()
}

// reasons reads why from Tollgate's own log, where every decision is a line at debug level. A request that two rules match has two.
func reasons(log string) string {
	var all []string
	for line := range strings.Lines(log) {
		var entry struct {
			Msg, Handler, Outcome, Reason string
			Cached                        bool
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "decision" {
			reason := entry.Handler + ": " + entry.Reason
			if strings.HasPrefix(entry.Outcome, "failed_") {
				reason += " (" + strings.ReplaceAll(entry.Outcome, "_", " ") + ")"
			}
			if entry.Cached {
				reason += " (remembered)"
			}
			all = append(all, reason)
		}
	}
	// Mixer asks both handlers at once; the order of their answers means nothing.
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func lifetime(v *mesh.Verdict) string {
	switch {
	case v.ValidFor <= 0 && v.OK():
		return "this request only"
	case v.ValidFor <= 0:
		return "not reused"
	default:
		return fmt.Sprintf("%s, %d uses", v.ValidFor, v.ValidUses)
	}
}

const next = `
Try next:
  make build && bin/tollgate serve       the adapter alone, on 127.0.0.1:44225; metrics on http://127.0.0.1:44226/metrics
  bin/tollgate operatorconfig            the resources that tell Mixer about it
  operatorconfig/examples/               the handlers above, commented; change one and run make demo again
  docs/handlers.md, docs/settings.md     every field of a handler, and every setting
  docs/failures.md, docs/rego.md         what each failure does; what a policy sees, and what is remembered
  docs/quota.md, docs/shadow.md          quotas, and trying a handler's next params
  docs/reports.md                        how records are kept and delivered
`
