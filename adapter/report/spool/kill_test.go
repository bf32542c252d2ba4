package spool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What makes the test binary somebody else: see TestMain.
const (
	victimDirectory = "TOLLGATE_SPOOL_VICTIM"
	rivalDirectory  = "TOLLGATE_SPOOL_RIVAL"
)

func killOptions() Options {
	return Options{MaxBytes: 16 << 20, SegmentBytes: 64 << 10, CursorEvery: 5 * time.Millisecond}
}

// victim appends and delivers until it is killed. It says on standard output what was acknowledged to it, and what it delivers
// before it is done with it.
func victim(dir string) {
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(os.Stdout, format, args...) // one write each, which the kernel keeps when the process dies
	}
	d, err := Open(dir, killOptions())
	if err != nil {
		say("error %v\n", err)
		return
	}
	var sequence atomic.Uint64
	sequence.Store(d.NextSequence())
	say("open\n")
	for range 8 {
		go func() {
			rng := rand.New(rand.NewPCG(rand.Uint64(), 0))
			for {
				f := newFrame(sequence.Add(1), []int{rng.IntN(200), rng.IntN(8000), rng.IntN(50000)}[rng.IntN(3)])
				if put(d, f) == nil {
					say("kept %d\n", f.Sequence)
				}
			}
		}()
	}
	rng := rand.New(rand.NewPCG(rand.Uint64(), 0))
	for {
		f, err := d.Next(context.Background())
		if err == nil {
			err = whole(f)
		}
		if err != nil {
			say("error %v\n", err)
			return
		}
		switch rng.IntN(20) {
		case 0:
			continue // a straggler
		case 1:
			time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond) // lets frames pile up
		}
		say("done %d\n", f.Sequence)
		d.Done(f.Sequence, Outcome{})
	}
}

// A process that is killed at any moment loses nothing that it acknowledged. 30 times, or TOLLGATE_SPOOL_KILLS.
func TestKill(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	kept, done, dead := map[uint64]bool{}, map[uint64]bool{}, 0
	for range number(t, "TOLLGATE_SPOOL_KILLS", 30) {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), victimDirectory+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewReader(out)
		opened, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "open\n", opened)
		time.AfterFunc(time.Duration(rand.IntN(100_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		for {
			line, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			var what string
			var sequence uint64
			_, err = fmt.Sscan(line, &what, &sequence)
			require.NoError(t, err, line)
			if what == "kept" {
				kept[sequence] = true
			} else {
				done[sequence] = true
			}
		}
		_ = cmd.Wait() // was killed
		require.Equal(t, syscall.SIGKILL, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
		dead++
	}
	d := open(t, dir, killOptions())
	assert.Zero(t, d.Stats().Damage.Regions)
	found := map[uint64]bool{}
	for _, sequence := range drain(t, d, true) {
		assert.False(t, found[sequence], "frame %d came twice in one life", sequence)
		found[sequence] = true
	}
	again := 0
	for sequence := range done {
		if found[sequence] {
			again++
		}
	}
	lost := 0
	for sequence := range kept {
		if !found[sequence] && !done[sequence] {
			lost++
		}
	}
	assert.Zero(t, lost, "frames were acknowledged and are lost")
	t.Logf("%d kills: %d frames acknowledged, %d done before, %d found at the end, %d of them duplicates", dead, len(kept), len(done), len(found), again)
}

// rival opens the directory, says what came of it and holds it until its input ends.
func rival(dir string) {
	d, err := Open(dir, Options{})
	if err != nil {
		_, _ = fmt.Fprintln(os.Stdout, err)
		return
	}
	_, _ = fmt.Fprintln(os.Stdout, "open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = d.Close()
}

// A directory is one process's at a time, and free as soon as that ends in whatever way.
func TestTwoProcesses(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "queue")
	run := func() (first string, end func(kill bool)) {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), rivalDirectory+"="+dir)
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		return strings.TrimSpace(line), func(kill bool) {
			if kill {
				require.NoError(t, cmd.Process.Kill())
			}
			require.NoError(t, in.Close())
			_ = cmd.Wait()
		}
	}
	for _, kill := range []bool{true, false} {
		said, end := run()
		require.Equal(t, "open", said)
		_, err := Open(dir, Options{})
		require.Error(t, err)
		class, _ := ClassOf(err)
		assert.Equal(t, Locked, class)
		assert.Contains(t, err.Error(), dir)
		assert.Contains(t, err.Error(), "another process")
		end(kill)
		d, err := Open(dir, Options{})
		require.NoError(t, err)
		refused, _ := run()
		assert.Contains(t, refused, dir+": locked")
		require.NoError(t, d.Close())
	}
}
