package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tollgate-mesh/tollgate/operatorconfig"
)

func operatorconfigCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "operatorconfig",
		Short:   "Print the template and adapter resources that Mixer needs to know this version",
		Example: "  tollgate operatorconfig | kubectl apply -f -",
		Args:    noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(command.OutOrStdout(), operatorconfig.Bundle())
			return err
		},
	}
}
