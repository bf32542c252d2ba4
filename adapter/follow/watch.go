package follow

import (
	"context"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watched is a document's file whose directory is watched, because a file is replaced by a rename.
type watched struct {
	directory string
	// changed is told that the file may have changed.
	changed chan<- struct{}
	logger  *slog.Logger
	// unwatched is whether the directory cannot be watched now.
	unwatched bool
}

// watch tells files of changes. There is one for many files, since a user may have few of the system's watchers, and all processes of all
// containers under one number count as one user. It tells every file of every change: a file may be reached by several paths, of which the
// system names one.
type watch struct {
	files   []*watched
	watcher *fsnotify.Watcher
}

// newWatch watches what can be watched. It is nil where that is nothing: then the files are looked at now and then, as every document is.
func newWatch(files []*watched) *watch {
	if len(files) == 0 {
		return nil
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		for _, f := range files {
			f.cannot(err)
		}
		return nil
	}
	w := &watch{files, watcher}
	w.add()
	return w
}

func (w *watched) cannot(err error) {
	w.logger.Warn("a document's file is looked at every 30s, because its directory cannot be watched", "error", err)
}

// tell never waits: one that was told and has not looked yet need not be told again.
func (w *watched) tell() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// add watches every directory, those that were missing or replaced since the last time among them.
func (w *watch) add() {
	for _, f := range w.files {
		err := w.watcher.Add(f.directory)
		if err != nil && !f.unwatched {
			f.cannot(err)
		}
		if err == nil && f.unwatched {
			f.tell() // it may have changed before
		}
		f.unwatched = err != nil
	}
}

// run tells the files of changes until ctx is done.
func (w *watch) run(ctx context.Context) {
	defer func() { _ = w.watcher.Close() }()
	again := time.NewTicker(recheck)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			w.add()
			continue
		case <-w.watcher.Events:
		case err := <-w.watcher.Errors:
			w.files[0].logger.Warn("watching documents' files", "error", err) // an event may be lost, so all are looked at
		}
		for _, f := range w.files {
			f.tell()
		}
	}
}
