package main

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/spf13/cobra"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func policyCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "policy",
		Short: "Look at, check and test Rego policies as the adapter would read them",
		Args:  cobra.NoArgs,
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
