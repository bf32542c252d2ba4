package policies

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
)

const (
	// settle lets a burst of changes end before the directory is read.
	settle = 50 * time.Millisecond
	// recheck finds changes on file systems that report none.
	recheck = 30 * time.Second
	// unsteady is how often a directory is read that changes meanwhile, before that counts as a failure.
	unsteady = 5

	maxFiles = 10_000
	maxDepth = 16
)

// directory follows a directory's modules and data.
type directory struct {
	target
	// digest is that of the content last tried.
	digest string
	// watch is called for each directory before it is read, so that what changes after that is an event; nil where nothing is watched.
	watch func(directory string)
}

// tree is what a directory holds, by slash-separated path.
type tree map[string]string

// run watches every directory below, and so sees the swap of a symlink as well, with which Kubernetes changes a mounted ConfigMap.
func (d *directory) run(ctx context.Context, tried func()) {
	watcher, err := fsnotify.NewWatcher()
	var events <-chan fsnotify.Event
	var errs <-chan error
	if err != nil {
		d.logger.Warn("policies are looked at every 30s, because the system reports no file changes", "error", err)
	} else {
		defer func() { _ = watcher.Close() }()
		events, errs = watcher.Events, watcher.Errors
		unwatched := map[string]bool{}
		d.watch = func(directory string) { // one that is watched already stays so
			err := watcher.Add(directory)
			if err != nil && !unwatched[directory] {
				d.logger.Warn("a directory of policies is looked at every 30s, because it cannot be watched", "directory", directory, "error", err)
			}
			unwatched[directory] = err != nil
		}
	}
	look := func() { d.read() } //nolint:contextcheck // what is read is compiled to the end
	look()
	tried()
	d.follow(ctx, events, errs, look)
}

// follow looks soon after events, and every now and then, until ctx is done.
func (d *directory) follow(ctx context.Context, events <-chan fsnotify.Event, errs <-chan error, look func()) {
	due := time.NewTimer(recheck)
	defer due.Stop()
	soon := false // a look that is due is not put off by events that go on and on
	hurry := func() {
		if !soon {
			soon = true
			due.Reset(settle)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			hurry()
		case err := <-errs:
			d.logger.Warn("watching policies", "error", err)
			hurry()
		case <-due.C:
			look()
			soon = false
			due.Reset(recheck)
		}
	}
}

// read takes in what the directory holds now, if that is new.
func (d *directory) read() {
	files, err := d.steady()
	if err != nil {
		d.digest = ""
		d.reject(err)
		return
	}
	digest := files.digest()
	if digest == d.digest {
		if d.Stats().Err == nil {
			d.Confirm()
		}
		return
	}
	d.digest = digest
	content, err := d.content(files, digest)
	if err != nil {
		d.reject(err)
		return
	}
	generation, err := d.Compile(content)
	if err != nil {
		d.reject(err)
		return
	}
	d.activate(generation)
	d.Confirm()
}

// steady reads the directory until two readings are alike: what changes in the meantime could be half of one policy and half of another.
func (d *directory) steady() (tree, error) {
	before, err := d.walk()
	for range unsteady {
		if err != nil {
			return nil, err
		}
		var now tree
		if now, err = d.walk(); err == nil && maps.Equal(now, before) {
			return now, nil
		}
		before = now
	}
	if err == nil {
		err = errors.New("the directory changes while it is read; replace it in one step, as by renaming a symlink")
	}
	return nil, err
}

func (d *directory) walk() (tree, error) {
	files := tree{}
	left := d.source.MaxBytes
	if err := d.enter(files, ".", &left); err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("the directory %s has no policies", d.source.Directory)
	}
	return files, nil
}

// enter reads the files of one directory and of those below it. Names that begin with a dot are left out, with what Kubernetes puts
// beside a mounted ConfigMap.
func (d *directory) enter(files tree, below string, left *int64) error {
	if strings.Count(below, "/") >= maxDepth {
		return fmt.Errorf("%s is more than %d directories deep", below, maxDepth)
	}
	absolute := filepath.Join(d.source.Directory, filepath.FromSlash(below))
	if d.watch != nil {
		d.watch(absolute)
	}
	entries, err := os.ReadDir(absolute)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		name, file := path.Join(below, entry.Name()), filepath.Join(absolute, entry.Name())
		info, err := os.Stat(file) // what a symlink leads to
		switch {
		case err != nil:
			return err
		case info.IsDir():
			if err := d.enter(files, name, left); err != nil {
				return err
			}
			continue
		case !isModule(name) && !isData(name):
			continue
		case !info.Mode().IsRegular():
			return fmt.Errorf("%s is no regular file", name)
		case len(files) >= maxFiles:
			return fmt.Errorf("the directory %s has more than %d files", d.source.Directory, maxFiles)
		}
		if files[name], err = readBounded(file, *left); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if *left -= int64(len(files[name])); *left < 0 {
			return fmt.Errorf("the directory %s has more than %d bytes of policies and data; max_bytes bounds it", d.source.Directory, d.source.MaxBytes)
		}
	}
	return nil
}

// readBounded reads one byte more than it may be, at most.
func readBounded(file string, most int64) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	return string(content), err
}

// isModule leaves out tests, which OPA's tools find by the same names.
func isModule(name string) bool {
	return strings.HasSuffix(name, ".rego") && !strings.HasSuffix(name, "_test.rego")
}

func isData(name string) bool {
	return slices.Contains([]string{".json", ".yaml", ".yml"}, path.Ext(name))
}

// digest identifies the content, names included.
func (t tree) digest() string {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(t)) {
		for _, text := range []string{name, t[name]} {
			_ = binary.Write(sum, binary.BigEndian, uint64(len(text)))
			_, _ = io.WriteString(sum, text)
		}
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)[:6])
}

// content lays the files out as `opa run DIR` does: each document is merged into data at the path of its directory.
func (d *directory) content(files tree, revision string) (rego.Content, error) {
	content := rego.Content{Modules: map[string]rego.Module{}, Data: map[string]any{}, Revision: revision, Version: d.source.Version}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if isModule(name) {
			content.Modules[name] = rego.Module{Text: files[name], Version: d.source.Version}
			continue
		}
		var document any
		if err := util.Unmarshal([]byte(files[name]), &document); err != nil {
			return content, fmt.Errorf("%s is no JSON or YAML document", name) // the error would show some of it
		}
		object, ok := document.(map[string]any)
		if !ok {
			return content, fmt.Errorf("%s is no object; write one, whose members are merged into data", name)
		}
		into, err := descend(content.Data, path.Dir(name))
		if err == nil {
			err = merge(into, object)
		}
		if err != nil {
			return content, fmt.Errorf("%s: %w", name, err)
		}
	}
	return content, nil
}

// descend returns the object at a path, which it makes if it is not there.
func descend(data map[string]any, at string) (map[string]any, error) {
	if at == "." {
		return data, nil
	}
	for key := range strings.SplitSeq(at, "/") {
		if _, ok := data[key]; !ok {
			data[key] = map[string]any{}
		}
		below, ok := data[key].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("the directory %q has documents, and another document has a value in its place", key)
		}
		data = below
	}
	return data, nil
}

// merge adds what is in more. Only objects go together.
func merge(data, more map[string]any) error {
	for key, value := range more {
		there, ok := data[key]
		if !ok {
			data[key] = value
			continue
		}
		object, isObject := there.(map[string]any)
		other, isOther := value.(map[string]any)
		if !isObject || !isOther {
			return fmt.Errorf("the key %q is in another document as well", key)
		}
		if err := merge(object, other); err != nil {
			return err
		}
	}
	return nil
}
