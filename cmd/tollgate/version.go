package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set at link time.
var version = ""

// versionText is the version that was linked in, or what the Go toolchain knows of the module.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, and those of Go, gRPC and Open Policy Agent in it",
		Args:  noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			out := command.OutOrStdout()
			if _, err := fmt.Fprintf(out, "tollgate %s\n", versionText()); err != nil {
				return err
			}
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return nil
			}
			if _, err := fmt.Fprintf(out, "go       %s\n", info.GoVersion); err != nil {
				return err
			}
			names := map[string]string{"google.golang.org/grpc": "grpc    ", "github.com/open-policy-agent/opa": "opa     "}
			for _, dependency := range info.Deps {
				if name, ok := names[dependency.Path]; ok {
					if _, err := fmt.Fprintf(out, "%s %s\n", name, dependency.Version); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
}
