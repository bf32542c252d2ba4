package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tollgate-mesh/tollgate/adapter"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func serveCommand() *cobra.Command {
	var (
		file           string
		flags          = settings.Default()
		allowPlaintext bool
	)
	command := &cobra.Command{
		Use:   "serve",
		Short: "Serve Mixer's calls",
		Long: "Serve Mixer's calls until SIGTERM or SIGINT; a second signal ends the process at once.\n" +
			"Without a settings file the defaults hold. Flags win over the file.",
		Example: "  tollgate serve\n" +
			"  tollgate serve --settings /etc/tollgate/settings.yaml\n" +
			"  tollgate serve --listen 0.0.0.0:44225 --allow-plaintext",
		Args: noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			s := settings.Default()
			if file != "" {
				var err error
				if s, err = settings.Read(file); err != nil {
					return err
				}
			}
			for name, set := range map[string]func(){
				"listen":          func() { s.Listen = flags.Listen },
				"admin":           func() { s.Admin = flags.Admin },
				"allow-plaintext": func() { s.AllowPlaintext = allowPlaintext },
				"log-level":       func() { s.Log.Level = flags.Log.Level },
				"log-format":      func() { s.Log.Format = flags.Log.Format },
			} {
				if command.Flags().Changed(name) {
					set()
				}
			}
			if err := s.Validate(); err != nil {
				return fmt.Errorf("settings:\n%w", err)
			}
			logger, err := observe.NewLogger(command.ErrOrStderr(), s.Log.Level, s.Log.Format)
			if err != nil {
				return err
			}
			logger.Info("starting", "version", versionText(), "settings", file)
			adapter.TuneMemory(logger)
			adapter.TuneProcessors(logger)
			service, err := adapter.New(command.Context(), s, versionText(), logger)
			if err != nil {
				return err
			}
			return service.Run(command.Context())
		},
	}
	f := command.Flags()
	f.StringVar(&file, "settings", "", "settings file (YAML); see docs/settings.md")
	f.StringVar(&flags.Listen, "listen", flags.Listen, "host:port for Mixer's calls")
	f.StringVar(&flags.Admin, "admin", flags.Admin, "host:port for the page, health, metrics and profiles; empty for none")
	f.BoolVar(&allowPlaintext, "allow-plaintext", false, "consent to unencrypted listeners that other machines can reach")
	f.StringVar(&flags.Log.Level, "log-level", flags.Log.Level, "debug, info, warn or error; at debug every decision is a line")
	f.StringVar(&flags.Log.Format, "log-format", flags.Log.Format, "json or text")
	return command
}
