package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/spf13/cobra"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func policyCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "policy",
		Short: "Look at, check and test Rego policies as the adapter would read them",
		Args:  oneOfItsCommands,
		RunE:  func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(policyInspectCommand(), policyCheckCommand(), policyTestCommand())
	return command
}

// language is the Rego that policies are read in.
func language(v0 bool) ast.RegoVersion {
	if v0 {
		return ast.RegoV0
	}
	return ast.RegoV1
}

// checkHosts refuses values of --allow-hosts that the setting would refuse.
func checkHosts(hosts []string) error {
	s := settings.Default()
	s.Rego.AllowHosts = hosts
	if err := s.Validate(); err != nil {
		return fmt.Errorf("--allow-hosts: %w", err)
	}
	return nil
}

// brief cuts the lines of OPA's errors, which quote the policy: a line of it may have megabytes.
func brief(err error) error {
	const most = 500
	long := false
	var cut strings.Builder
	for line := range strings.Lines(err.Error()) {
		if len(line) > most {
			long = true
			line = strings.ToValidUTF8(line[:most], "") + "…\n"
		}
		cut.WriteString(line)
	}
	if !long {
		return err
	}
	return errors.New(strings.TrimSuffix(cut.String(), "\n"))
}
