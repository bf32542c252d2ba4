package observe_test

import (
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/observe"
)

func newLevel(t *testing.T, level string) (*slog.Logger, *observe.Level, *logtest.Buffer) {
	t.Helper()
	written := &logtest.Buffer{}
	logger, err := observe.NewLogger(written, level, "json")
	require.NoError(t, err)
	return logger, observe.LevelOf(logger), written
}

func TestLevelChanges(t *testing.T) {
	t.Parallel()
	logger, level, written := newLevel(t, "info")
	derived := logger.With("a", "b").WithGroup("g")
	assert.False(t, derived.Enabled(t.Context(), slog.LevelDebug))
	assert.Equal(t, observe.LevelState{Level: "debug", Configured: "info"}, level.Set(t.Context(), slog.LevelDebug, 0, "somebody"))
	assert.True(t, derived.Enabled(t.Context(), slog.LevelDebug), "loggers that were derived before change as well")
	assert.True(t, logger.Enabled(t.Context(), slog.LevelDebug))
	level.Set(t.Context(), slog.LevelError, time.Hour, "somebody")
	assert.False(t, logger.Enabled(t.Context(), slog.LevelWarn))
	assert.Equal(t, []map[string]any{
		{"level": "INFO", "msg": "the log level was changed", "from": "info", "to": "debug", "by": "somebody"},
		{"level": "INFO", "msg": "the log level was changed", "from": "debug", "to": "error", "by": "somebody", "for": "1h0m0s"},
	}, lines(t, written), "whoever reads the log knows why it grows or falls silent")
	level.Close()
}

func TestLevelReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, level, written := newLevel(t, "warn")
		began := time.Now()
		assert.Equal(t, observe.LevelState{Level: "debug", Configured: "warn", Until: began.Add(time.Minute)}, level.Set(t.Context(), slog.LevelDebug, time.Minute, "me"))
		time.Sleep(59 * time.Second)
		// A later change takes the place of an earlier one with its end.
		level.Set(t.Context(), slog.LevelInfo, time.Minute, "me")
		time.Sleep(59 * time.Second)
		assert.Equal(t, "info", level.State().Level)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Equal(t, observe.LevelState{Level: "warn", Configured: "warn"}, level.State())
		lines := lines(t, written)
		assert.Equal(t, "the time is over", lines[len(lines)-1]["by"])

		level.Set(t.Context(), slog.LevelDebug, time.Minute, "me")
		level.Set(t.Context(), slog.LevelDebug, 0, "me")
		time.Sleep(time.Hour)
		assert.Equal(t, "debug", level.State().Level, "it stays where nobody says how long")
		level.Set(t.Context(), slog.LevelError, time.Minute, "me")
		level.Close()
		time.Sleep(time.Hour)
		assert.Equal(t, "error", level.State().Level)
	})
}

func TestLevelManyAtOnce(t *testing.T) {
	t.Parallel()
	logger, level, _ := newLevel(t, "info")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 100 {
				level.Set(t.Context(), slog.LevelDebug, time.Duration(i%2)*time.Microsecond, "me")
				level.State()
				logger.Debug("x")
			}
		})
	}
	all.Wait()
	level.Set(t.Context(), slog.LevelWarn, 0, "me")
	assert.Equal(t, "warn", level.State().Level)
}

// That of another logger can be asked for and set, and nothing comes of it.
func TestLevelOfAnotherLogger(t *testing.T) {
	t.Parallel()
	level := observe.LevelOf(slog.New(slog.DiscardHandler))
	assert.Equal(t, "info", level.State().Level)
	assert.Equal(t, "debug", level.Set(t.Context(), slog.LevelDebug, 0, "me").Level)
}

func TestParseLevel(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"debug", "info", "warn", "error"} {
		_, ok := observe.ParseLevel(name)
		assert.True(t, ok)
	}
	for _, name := range []string{"", "DEBUG", "info+1", "off", "4"} {
		_, ok := observe.ParseLevel(name)
		assert.False(t, ok, name)
	}
}
