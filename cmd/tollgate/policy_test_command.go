package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/lineage"
	"github.com/spf13/cobra"

	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
)

// exitFailing is the exit status where tests ran and failed, as opa test has it. Whatever else goes wrong is 1.
const exitFailing = 2

// exitError is an error with an exit status of its own.
type exitError struct {
	status int
	text   string
}

func (e exitError) Error() string { return e.text }

type testRun struct {
	verbose, coverage, bundles, v0 bool
	run, format                    string
	threshold                      float64
	timeout                        time.Duration
	allowHosts                     []string
}

func policyTestCommand() *cobra.Command {
	var t testRun
	command := &cobra.Command{
		Use:   "test [PATH...]",
		Short: "Run the tests of Rego policies",
		Long: "Run the tests of Rego policies: rules whose names begin with test_, in files or directories, or in bundles.\n" +
			"It does what opa test does, under the same flags, with the built-ins that the adapter lets policies use.\n" +
			"It ends with 0 where all tests pass, 2 where one does not, and 1 where they cannot be run. Without a path it takes the working directory.",
		Example: "  tollgate policy test policies/\n" +
			"  tollgate policy test --verbose --run data.shop policies/\n" +
			"  tollgate policy test --coverage --threshold 90 policies/\n" +
			"  tollgate policy test shop.tar.gz",
		RunE: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"."}
			}
			return t.do(command.Context(), command.OutOrStdout(), args)
		},
	}
	f := command.Flags()
	f.BoolVarP(&t.verbose, "verbose", "v", false, "tell of every test, and what failing ones did")
	f.StringVarP(&t.run, "run", "r", "", "run only tests whose name, with its package, matches this regular expression")
	f.BoolVarP(&t.coverage, "coverage", "c", false, "tell, as JSON, which lines the tests evaluate")
	f.Float64Var(&t.threshold, "threshold", 0, "fail where fewer percent of the lines are evaluated; implies --coverage")
	f.StringVarP(&t.format, "format", "f", "pretty", "pretty or json")
	f.BoolVarP(&t.bundles, "bundle", "b", false, "take each path for a bundle; one that ends in .tar.gz is one anyway")
	f.BoolVar(&t.v0, "v0-compatible", false, "read the syntax before OPA 1.0, unless a bundle says otherwise")
	f.DurationVar(&t.timeout, "timeout", 5*time.Second, "the longest that one test may take")
	f.StringSliceVar(&t.allowHosts, "allow-hosts", nil, "hosts as in the setting rego.allow_hosts; with any, http.send and net.lookup_ip_addr are there")
	return command
}

func (t *testRun) do(ctx context.Context, out io.Writer, paths []string) error {
	if t.format != "pretty" && t.format != "json" {
		return fmt.Errorf("--format is %q; use pretty or json", t.format)
	}
	if _, err := regexp.Compile(t.run); err != nil {
		return fmt.Errorf("--run is no regular expression: %w", err)
	}
	if t.threshold < 0 || t.threshold > 100 {
		return fmt.Errorf("--threshold is %g; use 0 to 100 percent", t.threshold)
	}
	if t.timeout <= 0 {
		return fmt.Errorf("--timeout is %s; use more than 0s", t.timeout)
	}
	if err := checkHosts(t.allowHosts); err != nil {
		return err
	}
	capabilities := rego.NewEnvironment(rego.Options{AllowHosts: t.allowHosts}).Capabilities()
	options := ast.ParserOptions{RegoVersion: language(t.v0), Capabilities: capabilities, ProcessAnnotation: true}
	modules, bundles, store, err := t.load(paths, options)
	if err != nil {
		return brief(err)
	}
	txn, err := store.NewTransaction(ctx, storage.WriteParams)
	if err != nil {
		return err
	}
	defer store.Abort(ctx, txn)
	compiler := ast.NewCompiler().WithCapabilities(capabilities).WithDefaultRegoVersion(options.RegoVersion).
		WithEnablePrintStatements(true).WithUseTypeCheckAnnotations(true).WithPathConflictsCheck(storage.NonEmpty(ctx, store, txn))
	runner := tester.NewRunner().SetCompiler(compiler).SetDefaultRegoVersion(options.RegoVersion).SetStore(store).SetModules(modules).SetBundles(bundles).
		CapturePrintOutput(true).EnableTracing(t.verbose).SetTimeout(t.timeout).Filter(t.run).SetParallel(runtime.NumCPU())
	var reporter tester.Reporter
	switch {
	case t.coverage || t.threshold > 0:
		covered := cover.New()
		runner = runner.SetCoverageQueryTracer(covered)
		reporter = tester.JSONCoverageReporter{Cover: covered, Modules: parsed(modules, bundles), Output: out, Threshold: t.threshold, Verbose: t.verbose}
	case t.format == "json":
		reporter = tester.JSONReporter{Output: out}
	default:
		reporter = tester.PrettyReporter{Output: out, Verbose: t.verbose}
	}
	results, err := runner.RunTests(ctx, txn)
	if err != nil {
		return err
	}
	return tell(reporter, results)
}

// tell tells of all tests, and returns an error where one failed or none ran.
func tell(reporter tester.Reporter, results chan *tester.Result) error {
	ran, failed := 0, 0
	counted := make(chan *tester.Result)
	reported := make(chan error, 1)
	go func() { reported <- reporter.Report(counted) }()
	var err error
	ended := false
	for result := range results {
		ran++
		if !result.Pass() && !result.Skip {
			failed++
		}
		if ended {
			continue // the tests that are under way have to end
		}
		result.Trace = lineage.Filter(result.Trace, func(event *topdown.Event) bool { return event.Op == topdown.NoteOp || event.Op == topdown.FailOp })
		select {
		case counted <- result:
		case err = <-reported: // a report of coverage ends with the first test that cannot be run
			ended = true
		}
	}
	close(counted)
	if !ended {
		err = <-reported
	}
	switch {
	case failed > 0:
		return exitError{exitFailing, fmt.Sprintf("%d of %d tests failed", failed, ran)}
	case err != nil:
		return exitError{exitFailing, err.Error()}
	case ran == 0:
		return fmt.Errorf("no test was found; they are rules whose names begin with %s", tester.TestPrefix)
	}
	return nil
}

// load reads policies as the adapter lays them out, but with their tests.
func (t *testRun) load(paths []string, options ast.ParserOptions) (map[string]*ast.Module, map[string]*bundle.Bundle, storage.Store, error) {
	asBundles := t.bundles
	for _, path := range paths {
		asBundles = asBundles || strings.HasSuffix(path, ".tar.gz")
	}
	if asBundles {
		bundles, store, err := tester.LoadBundlesWithParserOptions(paths, hidden, options)
		return nil, bundles, store, err
	}
	modules, store, err := tester.LoadWithParserOptions(paths, hidden, options)
	return modules, nil, store, err
}

// hidden leaves out what begins with a dot, but for a bundle's own files.
func hidden(path string, _ os.FileInfo, depth int) bool {
	name := filepath.Base(path)
	return depth > 0 && strings.HasPrefix(name, ".") && name != ".manifest" && name != ".signatures.json"
}

func parsed(modules map[string]*ast.Module, bundles map[string]*bundle.Bundle) map[string]*ast.Module {
	all := maps.Clone(modules)
	if all == nil {
		all = map[string]*ast.Module{}
	}
	for name, b := range bundles {
		maps.Copy(all, b.ParsedModules(name))
	}
	return all
}
