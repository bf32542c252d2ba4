package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/open-policy-agent/opa/v1/loader"
	"github.com/spf13/cobra"

	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

func policyInspectCommand() *cobra.Command {
	var (
		method     string
		v0, asJSON bool
		allowHosts []string
	)
	command := &cobra.Command{
		Use:   "inspect FILE|DIR...",
		Short: "Tell what a policy reads of requests, and whether its answers are remembered",
		Long: "Tell what a policy reads of requests, whether its answers are remembered and why not, and whether it is evaluated partially.\n" +
			"Of directories it takes modules but those of tests (_test.rego), and data documents (.json, .yaml) as OPA does. See docs/rego.md.",
		Example: "  tollgate policy inspect --check-method data.mixerauthz.allow policy.rego",
		Args:    paths(math.MaxInt),
		RunE: func(command *cobra.Command, args []string) error {
			found, err := inspectPolicy(args, method, v0, allowHosts)
			if err != nil {
				return err
			}
			if asJSON {
				encoder := json.NewEncoder(command.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(found)
			}
			return printInspection(command.OutOrStdout(), found)
		},
	}
	command.Flags().StringVar(&method, "check-method", "", "the rule that decides, as in a handler's check_method")
	command.Flags().BoolVar(&v0, "v0-compatible", false, "read the syntax before OPA 1.0, as handlers do by default")
	command.Flags().StringSliceVar(&allowHosts, "allow-hosts", nil, "hosts as in the setting rego.allow_hosts")
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	_ = command.MarkFlagRequired("check-method")
	return command
}

func inspectPolicy(paths []string, method string, v0 bool, allowHosts []string) (*rego.Inspection, error) {
	if err := checkHosts(allowHosts); err != nil {
		return nil, err
	}
	content := rego.Content{Modules: map[string]rego.Module{}, Version: config.RegoV1}
	if v0 {
		content.Version = config.RegoV0
	}
	tests := func(_ string, info fs.FileInfo, _ int) bool { return strings.HasSuffix(info.Name(), "_test.rego") }
	loaded, err := loader.NewFileLoader().WithRegoVersion(language(v0)).Filtered(paths, tests)
	if err != nil {
		return nil, brief(err)
	}
	if len(loaded.Modules) == 0 {
		return nil, fmt.Errorf("%s: there is no policy; name files that end in .rego, or directories with such files", strings.Join(paths, ", "))
	}
	for _, module := range loaded.Modules {
		content.Modules[module.Name] = rego.Module{Text: string(module.Raw), Version: content.Version}
	}
	content.Data = loaded.Documents
	return rego.Inspect(content, method, rego.NewEnvironment(rego.Options{AllowHosts: allowHosts}))
}

func printInspection(w io.Writer, found *rego.Inspection) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(title, text string) { fmt.Fprintf(out, "%s\t%s\n", title, text) }
	line("decision", found.Decision)
	title := "reads"
	for _, path := range found.Reads {
		text := path.String()
		if len(path) == 0 {
			text += ", the whole of it"
		}
		line(title, text)
		title = ""
	}
	if len(found.Reads) == 0 {
		line(title, "nothing of the input")
	}
	findings := func(title string, all []rego.Finding) {
		for _, finding := range all {
			line(title, finding.String())
			title = ""
		}
	}
	findings("because of", found.Widened)
	if found.Remembered {
		line("answers", "are remembered by what is read")
	} else {
		line("answers", "are not remembered")
		findings("volatile", found.Volatile)
		findings("because of", found.Unrememberable)
	}
	if found.Partial {
		line("partial evaluation", "serves")
	} else {
		line("partial evaluation", "does not serve: "+found.NotPartial)
	}
	return out.Flush()
}
