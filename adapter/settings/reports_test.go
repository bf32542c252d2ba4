package settings_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

func TestReportDefaults(t *testing.T) {
	t.Parallel()
	parse := func(document string) settings.Reports {
		s, err := settings.Parse([]byte(document))
		require.NoError(t, err)
		require.NoError(t, s.Validate())
		return s.Reports.WithDefaults()
	}
	nothing := parse("")
	assert.Equal(t, []string{"stdout"}, nothing.DefaultSinks)
	require.Contains(t, nothing.Sinks, "stdout")
	assert.NotNil(t, nothing.Sinks["stdout"].Stdout)
	assert.EqualValues(t, 64<<20, nothing.Sinks["stdout"].Queue.MaxBytes)

	disk := parse("reports: {directory: /spool, sinks: {a: {file: {path: /a, megabytes: 7}, batch: {records: 5}}}}")
	assert.Equal(t, []string{"a"}, disk.DefaultSinks, "the only sink")
	assert.NotContains(t, disk.Sinks, "stdout", "who names sinks gets those alone")
	assert.EqualValues(t, 1<<30, disk.Sinks["a"].Queue.MaxBytes)
	assert.Equal(t, settings.FileSink{Path: "/a", Megabytes: 7}, *disk.Sinks["a"].File)
	assert.Equal(t, 5, disk.Sinks["a"].Batch.Records)
	assert.Equal(t, 30*time.Second, disk.Sinks["a"].Batch.Timeout)
}

func TestReportsAreValidated(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ document, problem string }{
		"no default sink": {
			"sinks: {b: {stdout: {}}, a: {stdout: {}}}",
			"reports.default_sinks is missing; name at least one of a, b",
		},
		"default sinks that are none": {
			"default_sinks: [a, x, a], sinks: {a: {stdout: {}}}",
			"reports.default_sinks has \"x\", which is no sink; use some of a\nreports.default_sinks has \"a\" twice; keep one",
		},
		"names that cannot be directories": {
			"default_sinks: [A], sinks: {A: {stdout: {}}, ..: {stdout: {}}, dead-letters: {stdout: {}}, -a: {stdout: {}}}",
			"reports.sinks has \"-a\"; name a sink with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends\n" +
				"reports.sinks has \"..\"; name a sink with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends\n" +
				"reports.sinks has \"A\"; name a sink with at most 63 of a-z, 0-9, '_' and '-', a letter or digit at both ends\n" +
				"reports.sinks has \"dead-letters\", which is the directory of dead letters; choose another name",
		},
		"no kind": {
			"sinks: {a: {queue: {full: refuse}}}",
			"reports.sinks.a.stdout is missing; give the sink one of stdout, file, otlp, kafka, http, prometheus",
		},
		"two kinds": {
			"sinks: {a: {stdout: {}, http: {url: x}, file: {path: /a}}}",
			"reports.sinks.a.stdout stands beside file, http; a sink is of one kind, so make two",
		},
		"a file": {
			"sinks: {a: {file: {path: '', megabytes: -1, every: -1s, keep_days: -1, keep_files: -1}}}",
			"reports.sinks.a.file.path is \"\"; name a file\n" +
				"reports.sinks.a.file.megabytes is -1; use 1 to 1048576\n" +
				"reports.sinks.a.file.every is -1s; use 0s to 8760h0m0s\n" +
				"reports.sinks.a.file.keep_days is -1; use 0 to 36500\n" +
				"reports.sinks.a.file.keep_files is -1; use 0 to 1048576",
		},
		"one file for two": {
			"default_sinks: [a], sinks: {a: {file: {path: /x/f}}, b: {file: {path: /x/./f}}, c: {file: {path: /x/g}}}",
			"reports.sinks.b.file.path is \"/x/./f\", which the sink \"a\" writes; give each a file of its own",
		},
		"a queue": {
			"flush: 2h, sinks: {a: {stdout: {}, queue: {max_bytes: 1, max_age: -1s, full: panic, full_wait: 2s, sync: never}}}",
			"reports.flush is 2h0m0s; use 0s to 1h0m0s\n" +
				"reports.sinks.a.queue.max_bytes is 1; use 67108864 to 1125899906842624\n" +
				"reports.sinks.a.queue.max_age is -1s; use 0s to 8760h0m0s\n" +
				"reports.sinks.a.queue.full_wait is 2s; use 1ms to 1s\n" +
				"reports.sinks.a.queue.full is \"panic\"; use refuse, drop_oldest or drop_newest\n" +
				"reports.sinks.a.queue.sync is \"never\"; use always or os",
		},
		"batches": {
			"sinks: {a: {stdout: {}, batch: {records: -1, bytes: 1, wait: 2m, concurrency: 1000, timeout: 1ms, backoff: 2s, max_backoff: 1s, give_up_after: -1s}}}",
			"reports.sinks.a.batch.records is -1; use 1 to 1048576\n" +
				"reports.sinks.a.batch.bytes is 1; use 1024 to 67108864\n" +
				"reports.sinks.a.batch.wait is 2m0s; use 1ms to 1m0s\n" +
				"reports.sinks.a.batch.concurrency is 1000; use 1 to 256\n" +
				"reports.sinks.a.batch.timeout is 1ms; use 10ms to 1h0m0s\n" +
				"reports.sinks.a.batch.max_backoff is 1s; use 2s to 1h0m0s\n" +
				"reports.sinks.a.batch.give_up_after is -1s; use 0s to 8760h0m0s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := settings.Parse([]byte("reports: {" + c.document + "}"))
			require.NoError(t, err)
			err = s.Validate()
			require.Error(t, err)
			assert.Equal(t, strings.Split(c.problem, "\n"), strings.Split(err.Error(), "\n"))
		})
	}
}
