package adapter

import (
	"log/slog"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestTuneProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	logger := slog.New(slog.DiscardHandler)

	t.Setenv("GOMAXPROCS", "1")
	TuneProcessors(logger)
	assert.Equal(t, 1, runtime.GOMAXPROCS(0), "who sets the environment has set it on purpose")

	t.Setenv("GOMAXPROCS", "")
	TuneProcessors(logger)
	assert.Equal(t, 2, runtime.GOMAXPROCS(0))
	runtime.GOMAXPROCS(3)
	TuneProcessors(logger)
	assert.Equal(t, 3, runtime.GOMAXPROCS(0))
}
