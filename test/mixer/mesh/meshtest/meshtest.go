// Package meshtest starts the parts of a mesh for a test: they end with the test, and their logs are shown when it
// fails.
package meshtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
)

// StartTimeout bounds the start of one part, including the build of a binary that is missing.
const StartTimeout = 20 * time.Minute

// Tollgate starts Tollgate.
func Tollgate(t *testing.T, opts mesh.TollgateOptions) *mesh.Tollgate {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), StartTimeout)
	defer cancel()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	tollgate, err := mesh.StartTollgate(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		showLog(t, "tollgate", tollgate.Log)
		if err := tollgate.Close(); err != nil {
			t.Error(err)
		}
	})
	return tollgate
}

// Redis starts a real Redis. Where there is none the test is skipped, except under CI, where a test that cannot run has failed.
func Redis(t *testing.T) *mesh.Redis {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), StartTimeout)
	defer cancel()
	redis, err := mesh.StartRedis(ctx, t.TempDir())
	if errors.Is(err, mesh.ErrNoRedis) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		showLog(t, "redis-server", redis.Log)
		redis.Kill()
	})
	return redis
}

// Mixer starts a release's Mixer and fails the test if it rejects any of its configuration: Mixer itself would go on
// without the rejected resource and allow everything.
func Mixer(t *testing.T, version string, opts mesh.MixerOptions) *mesh.Mixer {
	t.Helper()
	mixer := LenientMixer(t, version, opts)
	NoConfigErrors(t, mixer)
	return mixer
}

// LenientMixer starts a Mixer whose configuration may be wrong.
func LenientMixer(t *testing.T, version string, opts mesh.MixerOptions) *mesh.Mixer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), StartTimeout)
	defer cancel()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	mixer, err := mesh.StartMixer(ctx, version, opts)
	if err != nil {
		t.Fatal(err)
	}
	endWith(t, mixer)
	return mixer
}

// Mixers starts the Mixers of all releases at once, newest first, with the same options; the tests fail as for Mixer.
func Mixers(t *testing.T, opts mesh.MixerOptions) []*mesh.Mixer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), StartTimeout)
	defer cancel()
	mixers, errs := make([]*mesh.Mixer, len(mesh.Versions)), make([]error, len(mesh.Versions))
	var starts sync.WaitGroup
	for i, version := range mesh.Versions {
		own := opts
		own.Dir = t.TempDir()
		starts.Go(func() { mixers[i], errs[i] = mesh.StartMixer(ctx, version, own) })
	}
	starts.Wait()
	for i, mixer := range mixers {
		if errs[i] == nil {
			endWith(t, mixer)
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, mixer := range mixers {
		NoConfigErrors(t, mixer)
	}
	return mixers
}

func endWith(t *testing.T, mixer *mesh.Mixer) {
	t.Cleanup(func() {
		showLog(t, "mixs "+mixer.Version, mixer.Log)
		if err := mixer.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Apply gives Mixer resources and waits until it uses them.
func Apply(t *testing.T, mixer *mesh.Mixer, name, text string) {
	t.Helper()
	if err := mixer.ApplyAndSync(t.Context(), name, text); err != nil {
		t.Fatal(err)
	}
	if len(mixer.ConfigErrors()) > 0 {
		// A busy Mixer may have begun with half of it.
		if err := mixer.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	NoConfigErrors(t, mixer)
}

// NoConfigErrors fails the test if Mixer rejected anything of its newest configuration.
func NoConfigErrors(t *testing.T, mixer *mesh.Mixer) {
	t.Helper()
	for _, problem := range mixer.ConfigErrors() {
		t.Errorf("mixs %s rejects: %s", mixer.Version, problem)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// shownLines of a log are enough to see what went wrong last; a log at debug has thousands.
const shownLines = 60

func showLog(t *testing.T, name string, log *mesh.Log) {
	if !t.Failed() {
		return
	}
	lines := strings.SplitAfter(log.String(), "\n")
	if more := len(lines) - shownLines; more > 0 {
		lines = append([]string{fmt.Sprintf("(%d lines before)\n", more)}, lines[more:]...)
	}
	t.Logf("log of %s:\n%s", name, strings.Join(lines, ""))
}
