package observe

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// leveled is a handler whose level can be changed.
type leveled struct {
	slog.Handler
	level *slog.LevelVar
}

// Level is the level of a logger that NewLogger made, and changes it while the process runs.
type Level struct {
	logger     *slog.Logger
	level      *slog.LevelVar
	configured slog.Level

	mu    sync.Mutex  // guards everything below
	back  *time.Timer // returns to the configured level; nil where nothing does
	until time.Time
}

// LevelOf returns the level of a logger. That of one which NewLogger did not make has no effect.
func LevelOf(logger *slog.Logger) *Level {
	l := &Level{logger: logger, level: &slog.LevelVar{}}
	if h, ok := logger.Handler().(leveled); ok {
		l.level = h.level
	}
	l.configured = l.level.Level()
	return l
}

// LevelState is what holds.
type LevelState struct {
	// Level is the level now, Configured that of the settings: debug, info, warn or error.
	Level      string `json:"level"`
	Configured string `json:"configured"`
	// Until is when it returns to the configured one; zero where it does not.
	Until time.Time `json:"until,omitzero"`
}

// State returns what holds now.
func (l *Level) State() LevelState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state()
}

func (l *Level) state() LevelState {
	return LevelState{Level: nameOf(l.level.Level()), Configured: nameOf(l.configured), Until: l.until}
}

func nameOf(level slog.Level) string { return strings.ToLower(level.String()) }

// ParseLevel returns the level of the given name: debug, info, warn or error.
func ParseLevel(name string) (slog.Level, bool) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if nameOf(level) == name {
			return level, true
		}
	}
	return 0, false
}

// Set changes the level: for the given time, or, where that is 0, until it is changed again. The log tells of it, with who asked.
func (l *Level) Set(ctx context.Context, level slog.Level, lasts time.Duration, by string) LevelState {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.back != nil {
		l.back.Stop()
		l.back, l.until = nil, time.Time{}
	}
	l.change(ctx, level, lasts, by)
	if lasts > 0 {
		l.until = time.Now().Add(lasts)
		var timer *time.Timer
		timer = time.AfterFunc(lasts, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.back == timer {
				l.back, l.until = nil, time.Time{}
				l.change(context.WithoutCancel(ctx), l.configured, 0, "the time is over")
			}
		})
		l.back = timer
	}
	return l.state()
}

// Close leaves the level as it is for good.
func (l *Level) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.back != nil {
		l.back.Stop()
		l.back = nil
	}
}

// change tells of the change at the quieter of the two levels, or those who keep the log would not know why it grows or falls silent.
func (l *Level) change(ctx context.Context, level slog.Level, lasts time.Duration, by string) {
	before := l.level.Level()
	l.level.Set(min(before, level))
	attributes := []any{"from", nameOf(before), "to", nameOf(level), "by", by}
	if lasts > 0 {
		attributes = append(attributes, "for", lasts.String())
	}
	l.logger.Log(ctx, max(slog.LevelInfo, min(before, level)), "the log level was changed", attributes...)
	l.level.Set(level)
}
