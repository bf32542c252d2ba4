// Package lists holds the lists that settings name, and follows their files and URLs.
package lists

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/policy/list"
	"github.com/tollgate-mesh/tollgate/config"
)

// Source says where a list comes from and of what type its entries are.
type Source struct {
	// Type is what the entries are.
	Type config.EntryType
	// From is where they come from. Its MaxBytes is the package's affair.
	From follow.Source
}

// Store is all lists of a process.
type Store struct {
	lists     map[string]*named
	documents follow.Documents[*list.List]
}

type named struct {
	entryType config.EntryType
	document  *follow.Document[*list.List]
}

// Type returns what the list's entries are.
func (n *named) Type() config.EntryType { return n.entryType }

// Current returns the list that counts now, or why there is none.
func (n *named) Current() (*list.List, error) {
	current, err := n.document.Current()
	if errors.Is(err, follow.ErrNotLoaded) {
		return nil, list.ErrNotLoaded
	}
	return current, err
}

// Open reads the lists that are in files. Those at URLs are not loaded until Run.
func Open(ctx context.Context, sources map[string]Source, logger *slog.Logger) *Store {
	s := &Store{lists: make(map[string]*named, len(sources)), documents: make(follow.Documents[*list.List], len(sources))}
	for name, source := range sources {
		parse := func(document []byte) (*list.List, error) {
			parsed, err := list.Parse(document, source.Type)
			if err != nil {
				return nil, fmt.Errorf("the list %w", err)
			}
			return parsed, nil
		}
		source.From.MaxBytes = list.MaxBytes
		s.documents[name] = follow.New(source.From, parse, logger.With("list", name))
		s.lists[name] = &named{source.Type, s.documents[name]}
	}
	s.documents.ReadFiles(ctx)
	return s
}

// Source returns the named list, and false where there is none of that name.
func (s *Store) Source(name string) (list.Source, bool) {
	n, ok := s.lists[name]
	if !ok {
		return nil, false
	}
	return n, true
}

// Run keeps the lists fresh until ctx is done.
func (s *Store) Run(ctx context.Context) error { return s.documents.Run(ctx) }

// Stats returns figures of every list by its name. A list's size is the number of its entries.
func (s *Store) Stats() map[string]follow.Stats { return s.documents.Stats((*list.List).Len) }
