// Package policies reads the policy sources that settings name, directories and OPA bundles, and follows them when they change.
package policies

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

// Source says where policies come from: a directory, or else a bundle.
type Source struct {
	// Directory has Rego modules and data documents.
	Directory string
	// Bundle is an OPA bundle; nil where there is a Directory.
	Bundle *Bundle
	// Version is the language of modules whose bundle does not say.
	Version config.RegoVersion
	// MaxBytes bounds modules and data together.
	MaxBytes int64
	// MaxStale is how long the last good policies count while the source is away; 0 for ever.
	MaxStale time.Duration
}

// Store is all policy sources of a process.
type Store struct {
	sources map[string]*followed
}

// followed is a source with what follows it.
type followed struct {
	*rego.Source
	follower follower
}

// follower brings a source's content.
type follower interface {
	// run follows until ctx is done. It calls tried after its first attempt, whatever came of it.
	run(ctx context.Context, tried func())
}

// Open reads what is on this machine's disk: directories. Bundles come with Run. It fails where a key or certificate of a bundle's
// settings cannot be read.
func Open(sources map[string]Source, environment *rego.Environment, logger *slog.Logger) (*Store, error) {
	s := &Store{sources: make(map[string]*followed, len(sources))}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		source := sources[name]
		t := target{rego.NewSource(name, environment, source.MaxStale), logger.With("policy_source", name), source}
		f := &followed{Source: t.Source}
		if source.Bundle == nil {
			d := &directory{target: t}
			d.read()
			f.follower = d
		} else {
			b, err := newBundle(name, t)
			if err != nil {
				return nil, fmt.Errorf("policies.%s.bundle.%w", name, err)
			}
			f.follower = b
		}
		s.sources[name] = f
	}
	return s, nil
}

// Source returns the named source, and false where there is none of that name.
func (s *Store) Source(name string) (*rego.Source, bool) {
	f, ok := s.sources[name]
	if !ok {
		return nil, false
	}
	return f.Source, true
}

// Run follows the sources until ctx is done. It calls tried when each was tried once.
func (s *Store) Run(ctx context.Context, tried func()) error {
	var group errgroup.Group
	var first sync.WaitGroup
	for _, f := range s.sources {
		first.Add(1)
		once := sync.OnceFunc(first.Done)
		group.Go(func() error {
			defer once()
			f.follower.run(ctx, once)
			return nil
		})
	}
	first.Wait()
	tried()
	return group.Wait()
}

// Stats returns figures of every source by its name.
func (s *Store) Stats() map[string]rego.Stats {
	all := make(map[string]rego.Stats, len(s.sources))
	for name, f := range s.sources {
		all[name] = f.Stats()
	}
	return all
}

// Problem says what is wrong with a source, though what it had last may still decide; nil for nothing.
func (s *Store) Problem(name string) error {
	switch now := s.sources[name].Stats(); {
	case now.Err != nil && now.Revision == "":
		return fmt.Errorf("it has nothing to decide with: %w", now.Err)
	case now.Err != nil:
		return fmt.Errorf("it stays at revision %s: %w", now.Revision, now.Err)
	case now.Revision == "":
		return errors.New("it is not loaded yet")
	case now.Behind > 0:
		return fmt.Errorf("%d of %d rules cannot follow to revision %s; the log names them", now.Behind, now.Rules, now.Revision)
	}
	return nil
}

// target is where a follower brings content to.
type target struct {
	*rego.Source
	logger *slog.Logger
	source Source
}

// activate makes a generation the one that decides, and says so.
func (t target) activate(generation *rego.Generation) {
	behind := t.Activate(generation)
	t.logger.Info("a policy is in force", "revision", generation.Revision())
	for _, decision := range slices.Sorted(maps.Keys(behind)) {
		t.logger.Error("handlers stay at the last policy that could decide for them", "rule", decision, "revision", generation.Revision(), "error", behind[decision])
	}
}

// reject says that an attempt failed, once for each reason.
func (t target) reject(err error) {
	before := t.Stats().Err
	t.Reject(err)
	if before == nil || before.Error() != err.Error() {
		t.logger.Error("a policy was not taken; the last good one goes on", "error", err)
	}
}

// revision makes a revision fit for labels and records.
var unprintable = regexp.MustCompile(`[^A-Za-z0-9._:@/+=-]+`)

func revisionOf(text string) string {
	const most = 64
	text = unprintable.ReplaceAllString(text, "_")
	if len(text) > most {
		text = text[:most]
	}
	return text
}
