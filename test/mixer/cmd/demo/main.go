// Command demo shows Tollgate at work: it starts the adapter and the real Mixer of Istio 1.7.8 with the examples of
// operatorconfig/, asks Mixer about requests and reports them as a proxy does, and prints what was decided and why, and what was
// recorded.
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

var requests = []request{
	{"the right token", "/reviews/1", map[string]string{"x-custom-token": "abc"}},
	{"a wrong token", "/reviews/1", map[string]string{"x-custom-token": "xyz"}},
	{"no token", "/reviews/1", nil},
	{"an empty token", "/reviews/1", map[string]string{"x-custom-token": ""}},
	{"token, bucket-admins read", "/buckets/7", map[string]string{"x-custom-token": "abc", "x-user-group": "bucket-admins", "x-method": "storage.buckets.get"}},
	{"token, bucket-admins delete", "/buckets/7", map[string]string{"x-custom-token": "abc", "x-user-group": "bucket-admins", "x-method": "storage.buckets.delete"}},
	{"token, guests read", "/buckets/7", map[string]string{"x-custom-token": "abc", "x-user-group": "guests", "x-method": "storage.buckets.get"}},
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
	} {
		text, err := os.ReadFile(filepath.Join(binaries.Root, path))
		if err != nil {
			return err
		}
		resources[name] = string(text)
	}
	for name, text := range resources {
		resources[name] = strings.ReplaceAll(text, exampleAddress, tollgate.Addr)
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
		"auth-header, rego, access-log and metrics. Mixer is asked about each request as a proxy would ask.\n\n", mixer.Version, time.Since(started).Seconds())

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
	if err := mixer.Report(ctx, reports...); err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	if err := showRecords(ctx, accessLog, len(reports), tollgate.AdminAddr); err != nil {
		return err
	}
	fmt.Print(next)
	return nil
}

// settings are those of the examples access-log and metrics, in one process.
const settings = `
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
		return err
	}); err != nil {
		return err
	}
	content, err := os.ReadFile(accessLog)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	if len(lines) != want {
		return fmt.Errorf("the access log has %d lines, not %d", len(lines), want)
	}
	fmt.Printf("\nThe same requests were reported through Mixer and kept before it was answered. %d lines are in the access log; the first:\n\n%s\n", len(lines), lines[0])

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
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
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
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "decision" {
			reason := entry.Handler + ": " + entry.Reason
			if strings.HasPrefix(entry.Outcome, "failed_") {
				reason += " (" + strings.ReplaceAll(entry.Outcome, "_", " ") + ")"
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
  docs/handlers.md, docs/settings.md     every field of a handler, every setting, and what each failure does
  docs/reports.md                        how records are kept and delivered
`
