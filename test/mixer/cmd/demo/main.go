// Command demo shows Tollgate at work: it starts the adapter and the real Mixer of Istio 1.7.8 with the examples of
// operatorconfig/, asks Mixer about requests as a proxy does, and prints what was decided and why.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"

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
	tollgate, err := mesh.StartTollgate(ctx, mesh.TollgateOptions{Binaries: binaries, Args: []string{"--log-level", "debug"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tollgate.Close()) }()

	resources := map[string]string{"failures": failures}
	for name, path := range map[string]string{
		"tollgate":    "operatorconfig/tollgate.yaml",
		"auth-header": "operatorconfig/examples/auth-header.yaml",
		"rego":        "operatorconfig/examples/rego.yaml",
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
		"auth-header and rego. Mixer is asked about each request as a proxy would ask.\n\n", mixer.Version, time.Since(started).Seconds())

	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "REQUEST\tPATH\tDECISION\tREASON\tLIFETIME\tTHE CALLER IS TOLD")
	_, _ = fmt.Fprintln(table, "-------\t----\t--------\t------\t--------\t------------------")
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
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Print(next)
	return nil
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
`
