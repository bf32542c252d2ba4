package main

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tollgate-mesh/tollgate/adapter/policies"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

func policyCheckCommand() *cobra.Command {
	var (
		method     string
		v0         bool
		maxBytes   int64
		allowHosts []string
	)
	command := &cobra.Command{
		Use:   "check DIR | FILE...",
		Short: "Say whether the adapter would take a policy",
		Long: "Say whether the adapter would take a policy: a directory as the setting policies.NAME.directory, or files as a handler's policy.\n" +
			"It finds what does not compile, what is not available, a missing rule, and references to input that no request has.",
		Example: "  tollgate policy check --check-method data.shop.allow /etc/tollgate/policies/shop\n" +
			"  tollgate policy check --v0-compatible --check-method data.mixerauthz.allow mixerauthz.rego",
		Args: paths(math.MaxInt),
		RunE: func(command *cobra.Command, args []string) error {
			if err := checkHosts(allowHosts); err != nil {
				return err
			}
			if maxBytes < 1 {
				return fmt.Errorf("--max-bytes is %d; use at least 1", maxBytes)
			}
			version := config.RegoV1
			if v0 {
				version = config.RegoV0
			}
			kind := rego.Kind{Environment: rego.NewEnvironment(rego.Options{AllowHosts: allowHosts})}
			handler := &config.Handler{Rego: &config.RegoPolicy{Decision: method, Version: version}}
			if info, err := os.Stat(args[0]); err == nil && info.IsDir() {
				if len(args) > 1 {
					return fmt.Errorf("%s is a directory; check one at a time", args[0])
				}
				source := policies.Source{Directory: args[0], Version: version, MaxBytes: maxBytes}
				store, err := policies.Open(map[string]policies.Source{"policy": source}, kind.Environment, slog.New(slog.DiscardHandler))
				if err != nil {
					return err
				}
				if err := store.Stats()["policy"].Err; err != nil {
					return fmt.Errorf("%s: %w", args[0], listed(err))
				}
				kind.Sources, handler.Rego.Source = store, "policy"
			} else {
				for _, file := range args {
					if strings.HasSuffix(file, ".tar.gz") {
						return fmt.Errorf("%s is a bundle; unpack it and name the directory, or run `tollgate policy test` on it", file)
					}
					content, err := os.ReadFile(file)
					if err != nil {
						return fmt.Errorf("%w; name files with Rego, or one directory alone", err)
					}
					handler.Rego.Modules = append(handler.Rego.Modules, string(content))
				}
			}
			if _, problems := kind.Compile(handler); len(problems) > 0 {
				return listed(inFiles(problems, args))
			}
			_, err := io.WriteString(command.OutOrStdout(), "ok\n")
			return err
		},
	}
	f := command.Flags()
	f.StringVar(&method, "check-method", "", "the rule that decides, as in a handler's check_method")
	f.BoolVar(&v0, "v0-compatible", false, "read the syntax before OPA 1.0, as handlers do by default")
	f.Int64Var(&maxBytes, "max-bytes", 16<<20, "how large a directory may be, as in the setting max_bytes")
	f.StringSliceVar(&allowHosts, "allow-hosts", nil, "hosts as in the setting rego.allow_hosts")
	_ = command.MarkFlagRequired("check-method")
	return command
}

// inFiles names the files in place of the modules of a handler.
func inFiles(problems config.Problems, files []string) config.Problems {
	for i, problem := range problems {
		for n, file := range files {
			if rest, ok := strings.CutPrefix(problem.Field, fmt.Sprintf("policy[%d]", n)); ok {
				problems[i].Field = file + rest
			}
		}
	}
	return problems
}

// listed puts every problem on a line.
func listed(err error) error {
	problems, ok := err.(config.Problems) //nolint:errorlint // what is not the problems alone is told as it is
	if !ok {
		return err
	}
	lines := make([]string, 0, len(problems))
	for _, problem := range problems {
		lines = append(lines, problem.String())
	}
	return fmt.Errorf("the adapter would not take it:\n%s", strings.Join(lines, "\n"))
}
