// Command tollgate is the out-of-process policy adapter for Istio's Mixer.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	// A second signal ends the process at once, because the first one restores the default.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tollgate:", err)
		if failed, ok := errors.AsType[exitError](err); ok {
			os.Exit(failed.status)
		}
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "tollgate",
		Short: "Policy adapter for Istio's Mixer",
		Long: "Tollgate answers Istio's Mixer out of its process: checks, by headers, tokens, API keys, passwords, lists and Rego policies;\n" +
			"quotas; and reports, which it keeps and delivers to files, OpenTelemetry, Kafka, HTTP or Prometheus.\n" +
			"It never lets a request pass silently: what happens when a check cannot decide is the operator's choice, cause by cause.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(command *cobra.Command, err error) error {
		return fmt.Errorf("%w; `%s --help` lists the flags", err, command.CommandPath())
	})
	root.AddCommand(serveCommand(), healthcheckCommand(), operatorconfigCommand(), certsCommand(), spoolCommand(), policyCommand(), versionCommand())
	return root
}

// paths wants one argument, and takes at most so many, each a path.
func paths(most int) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return fmt.Errorf("a path is missing; write %s", command.UseLine())
		case len(args) > most:
			return fmt.Errorf("%q is one path too many; write %s", args[most], command.UseLine())
		}
		return nil
	}
}

// noArguments refuses arguments of a command that has flags alone.
func noArguments(command *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q is one argument too many; `%s --help` lists the flags, and there is nothing else", args[0], command.CommandPath())
	}
	return nil
}

// oneOfItsCommands refuses arguments of a command that only holds others.
func oneOfItsCommands(command *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, below := range command.Commands() {
		names = append(names, below.Name())
	}
	return fmt.Errorf("%q is no command of %s; use one of %s", args[0], command.CommandPath(), strings.Join(names, ", "))
}
