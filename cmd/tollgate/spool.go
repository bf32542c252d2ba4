package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tollgate-mesh/tollgate/adapter"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/archive"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func spoolCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "spool",
		Short: "Look at reports that wait on a disk, and deliver them again",
		Long: "Look at reports that wait on a disk, and deliver them again.\n" +
			"DIR is the directory of reports, one sink's queue in it, its dead-letters directory or one file of that.\n" +
			"All but replay change nothing and may run beside an adapter. See docs/spool.md.",
		Args: oneOfItsCommands,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(spoolInspectCommand(), spoolVerifyCommand(), spoolExportCommand(), spoolReplayCommand())
	return command
}

func spoolInspectCommand() *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use:   "inspect DIR",
		Short: "Tell what is in the queues and dead letters",
		Args:  paths(1),
		RunE: func(command *cobra.Command, args []string) error {
			survey, err := look(command, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				encoder := json.NewEncoder(command.OutOrStdout())
				encoder.SetIndent("", "  ")
				err = encoder.Encode(survey)
			} else {
				err = printSurvey(command.OutOrStdout(), &survey)
			}
			if err != nil {
				return err
			}
			return unread(&survey)
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return command
}

func spoolVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify DIR",
		Short: "Read every byte and list what is damaged; ends with 0 if nothing is",
		Args:  paths(1),
		RunE: func(command *cobra.Command, args []string) error {
			survey, err := look(command, args[0])
			if err != nil {
				return err
			}
			out := bufio.NewWriter(command.OutOrStdout())
			damaged := 0
			tell := func(path string, problems []string, torn int64) {
				if len(problems) == 0 {
					fmt.Fprintf(out, "%s: sound%s\n", path, tornText(torn))
					return
				}
				damaged++
				fmt.Fprintf(out, "%s: damaged%s\n", path, tornText(torn))
				for _, problem := range problems {
					fmt.Fprintf(out, "  %s\n", problem)
				}
			}
			for i := range survey.Queues {
				q := &survey.Queues[i]
				tell(q.Path, q.Problems(), int64(q.TornBytes))
			}
			for i := range survey.Letters {
				l := &survey.Letters[i]
				tell(l.Path, l.Problems(), l.TornBytes)
			}
			if err := out.Flush(); err != nil {
				return err
			}
			if damaged > 0 {
				return fmt.Errorf("spool verify: %d of %d are damaged", damaged, len(survey.Queues)+len(survey.Letters))
			}
			return nil
		},
	}
}

func spoolExportCommand() *cobra.Command {
	var all bool
	command := &cobra.Command{
		Use:   "export DIR",
		Short: "Print records as JSON lines, in the schema of docs/records.md",
		Long: "Print records as JSON lines, in the schema of docs/records.md: those that wait, and dead letters.\n" +
			"A record that waits for two sinks is printed twice, with the same id.",
		Example: "  tollgate spool export /var/lib/tollgate/reports/kafka | jq .variables.url",
		Args:    paths(1),
		RunE: func(command *cobra.Command, args []string) error {
			contents, err := archive.Find(args[0])
			if err != nil {
				return fmt.Errorf("spool export: %w", err)
			}
			exported, err := contents.Export(command.Context(), command.OutOrStdout(), all)
			if exported.Undecodable > 0 {
				err = errors.Join(err, fmt.Errorf("%d records, frames or lines cannot be decoded and are left out", exported.Undecodable))
			}
			if exported.Damaged > 0 {
				err = errors.Join(err, fmt.Errorf("%d regions are damaged and what was in them is lost", exported.Damaged))
			}
			if err != nil {
				return fmt.Errorf("spool export: %w", err)
			}
			return nil
		},
	}
	command.Flags().BoolVar(&all, "all", false, "also those that are delivered, or were replayed, and not removed yet")
	return command
}

func spoolReplayCommand() *cobra.Command {
	var o replayOptions
	command := &cobra.Command{
		Use:   "replay DIR --settings FILE --sink NAME",
		Short: "Deliver what waits in a queue, or dead letters, through a sink",
		Long: "Deliver what waits in a queue, or dead letters, through a sink of the settings, until nothing is left or a signal comes.\n" +
			"DIR is one sink's queue, which no adapter may have open, a dead-letters directory, of which that sink's files are replayed,\n" +
			"or one file of it. What was delivered is not delivered again by the next replay. Records keep their ids.",
		Example: "  tollgate spool replay /var/lib/tollgate/reports/kafka --settings settings.yaml --sink kafka\n" +
			"  tollgate spool replay /var/lib/tollgate/reports/dead-letters --settings settings.yaml --sink kafka --include-current",
		Args: paths(1),
		RunE: func(command *cobra.Command, args []string) error {
			o.path = args[0]
			if err := o.run(command); err != nil {
				return fmt.Errorf("spool replay: %w", err)
			}
			return nil
		},
	}
	f := command.Flags()
	f.StringVar(&o.settings, "settings", "", "settings file (YAML) that has the sink; see docs/settings.md")
	f.StringVar(&o.sink, "sink", "", "name of the sink in the settings")
	f.IntVar(&o.batch, "batch", 0, "most records that are delivered at once; 0 for as many as the settings say")
	f.BoolVar(&o.dryRun, "dry-run", false, "tell what would be replayed; nothing is changed or sent")
	f.BoolVar(&o.includeCurrent, "include-current", false, "also dead letters that an adapter may be appending to; the file is rotated first")
	f.StringVar(&o.deadLetters, "dead-letters", "", "directory for records that the sink refuses for good; if empty, the one that belongs to DIR")
	_, _ = command.MarkFlagRequired("settings"), command.MarkFlagRequired("sink")
	return command
}

// openSink opens the named sink of the settings.
func openSink(s settings.Settings, name string, logger *slog.Logger) (report.Sink, error) {
	sink := s.Reports.WithDefaults().Sinks[name]
	if sink.Prometheus != nil {
		return nil, fmt.Errorf("sink %q counts in the process that serves and would end with this one; choose another", name)
	}
	if directory := s.Reports.Directory; sink.File != nil && directory != "" {
		used, err := spool.InUse(filepath.Join(directory, name))
		if err != nil {
			return nil, err
		}
		if used {
			return nil, fmt.Errorf("sink %q writes a file, which only one process may, and an adapter does; stop it first or choose another sink", name)
		}
	}
	return adapter.OpenSink(s, name, logger)
}

// replayOptions are what a replay is asked for.
type replayOptions struct {
	path, settings, sink, deadLetters string
	dryRun, includeCurrent            bool
	batch                             int
}

func (o *replayOptions) run(command *cobra.Command) error {
	if o.batch < 0 {
		return fmt.Errorf("--batch is %d; use at least 1, or 0 for as many as the settings say", o.batch)
	}
	s, err := settings.Read(o.settings)
	if err != nil {
		return err
	}
	if err := s.Validate(); err != nil {
		return fmt.Errorf("settings:\n%w", err)
	}
	contents, err := archive.Find(o.path)
	if err != nil {
		return err
	}
	if contents.Reports {
		return fmt.Errorf("%s is a directory of reports; name one queue in it, or its %s", o.path, archive.DeadLetterDirectory)
	}
	files, leftOut, err := contents.Replayable(o.sink, o.includeCurrent)
	if err != nil {
		return err
	}
	if leftOut > 0 {
		fmt.Fprintf(command.ErrOrStderr(), "left out %d files that an adapter may be appending to; --include-current rotates and replays them\n", leftOut)
	}
	if o.dryRun {
		contents.Letters = files
		return o.tell(command, contents)
	}
	logger, err := observe.NewLogger(command.ErrOrStderr(), s.Log.Level, s.Log.Format)
	if err != nil {
		return err
	}
	if o.deadLetters == "" {
		o.deadLetters = contents.DeadLetterDirectory()
	}
	letters, err := archive.OpenDeadLetters(o.deadLetters, o.sink)
	if err != nil {
		return err
	}
	sink, err := openSink(s, o.sink, logger)
	if err != nil {
		return err
	}
	replay := archive.Replay{Name: o.sink, Sink: sink, DeadLetters: letters, Batching: adapter.Batching(s, o.sink), Logger: logger}
	replay.Batching.GiveUpAfter = 0 // who started this ends it
	if o.batch > 0 {
		replay.Batching.Records = o.batch
	}
	var outcome archive.Outcome
	if len(contents.Queues) > 0 {
		outcome, err = replay.Queue(command.Context(), contents.Queues[0].Path)
	} else {
		outcome, err = replay.Letters(command.Context(), files)
	}
	return o.conclude(command.ErrOrStderr(), outcome, err)
}

// conclude tells what became of the records, and returns an error unless all of them were delivered.
func (o *replayOptions) conclude(out io.Writer, outcome archive.Outcome, err error) error {
	if class, ok := spool.ClassOf(err); ok && class == spool.Locked {
		return fmt.Errorf("an adapter, or another replay, has %s open; stop it first: %w", o.path, err)
	}
	_, printing := fmt.Fprintf(out, "delivered %d, not for this sink %d, refused %d, unreadable %d, left %d\n",
		outcome.Delivered, outcome.Filtered, outcome.Refused, outcome.Unreadable, outcome.Left)
	errs := []error{err, printing}
	add := func(n uint64, format string, args ...any) {
		if n > 0 {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	add(outcome.Refused, "%d records were refused for good; they are dead letters in %s", outcome.Refused, o.deadLetters)
	add(outcome.Unreadable, "%d records or lines cannot be read; docs/spool.md says where lines are kept", outcome.Unreadable)
	add(outcome.Left, "%d records are left; replay again to go on", outcome.Left)
	return errors.Join(errs...)
}

// tell prints what a replay would deliver.
func (o *replayOptions) tell(command *cobra.Command, contents archive.Contents) error {
	survey, err := contents.Look(command.Context())
	if err != nil {
		return err
	}
	out := bufio.NewWriter(command.OutOrStdout())
	for i := range survey.Queues {
		q := &survey.Queues[i]
		fmt.Fprintf(out, "%s: would deliver %d records\n", q.Path, q.Pending.Records)
		if q.InUse {
			fmt.Fprintln(out, "  not now: a process has it open")
		}
	}
	for i := range survey.Letters {
		l := &survey.Letters[i]
		fmt.Fprintf(out, "%s: would deliver %d letters\n", l.Path, l.Letters-l.Replayed)
	}
	return errors.Join(out.Flush(), unread(&survey))
}

// look makes a survey of a path.
func look(command *cobra.Command, path string) (archive.Survey, error) {
	contents, err := archive.Find(path)
	if err != nil {
		return archive.Survey{}, fmt.Errorf("%s: %w", command.CommandPath()[len("tollgate "):], err)
	}
	return contents.Look(command.Context())
}

// unread returns an error if something could not be read to its end. What it is has been printed.
func unread(survey *archive.Survey) error {
	for i := range survey.Queues {
		if survey.Queues[i].Error != "" {
			return errors.New(survey.Queues[i].Error)
		}
	}
	for i := range survey.Letters {
		if survey.Letters[i].Error != "" {
			return errors.New(survey.Letters[i].Error)
		}
	}
	return nil
}

func printSurvey(to io.Writer, survey *archive.Survey) error {
	out := bufio.NewWriter(to)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(out, "  %-11s%s\n", name, fmt.Sprintf(format, args...))
	}
	span := func(name string, oldest, newest time.Time) {
		if !oldest.IsZero() {
			row(name, "%s to %s", oldest.UTC().Format(time.RFC3339Nano), newest.UTC().Format(time.RFC3339Nano))
		}
	}
	table := func(name string, t archive.Table) {
		for _, r := range t.Top {
			row(name, "%-8d %q", r.Records, r.Text)
			name = ""
		}
		if t.Others > 0 {
			row(name, "%-8d others", t.Others)
		}
	}
	list := func(problems []string) {
		name := "problems"
		for _, problem := range problems {
			row(name, "%s", problem)
			name = ""
		}
	}
	for i := range survey.Queues {
		q := &survey.Queues[i]
		fmt.Fprintf(out, "queue %s\n", q.Path)
		row("id", "%s", q.ID)
		row("in use", "%t", q.InUse)
		row("segments", "%d%s", q.Segments, tornText(int64(q.TornBytes)))
		row("pending", "%s", sumText(q.Pending))
		span("arrived", q.Oldest, q.Newest)
		row("done", "%s", sumText(q.Done))
		table("kinds", q.Kinds)
		table("handlers", q.Handlers)
		list(q.Problems())
	}
	for i := range survey.Letters {
		l := &survey.Letters[i]
		fmt.Fprintf(out, "dead letters %s\n", l.Path)
		row("sink", "%s", l.Sink)
		row("file", "%s%s", l.State, tornText(l.TornBytes))
		row("letters", "%d, of which %d are replayed", l.Letters, l.Replayed)
		span("refused", l.Oldest, l.Newest)
		table("kinds", l.Kinds)
		table("causes", l.Causes)
		list(l.Problems())
	}
	return out.Flush()
}

func sumText(s archive.Sum) string {
	return fmt.Sprintf("%d frames, %d records, %d bytes", s.Frames, s.Records, s.Bytes)
}

func tornText(bytes int64) string {
	if bytes == 0 {
		return ""
	}
	return fmt.Sprintf(", %d bytes torn at the end, which is no damage", bytes)
}
