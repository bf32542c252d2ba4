// Package keyset holds the key sets that settings name: JWK Sets whose files and URLs it follows.
package keyset

import (
	"context"
	"errors"
	"log/slog"

	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
)

// Source says where a key set comes from and what kind of keys it has.
type Source struct {
	// Symmetric means that the keys are those of HMAC.
	Symmetric bool
	// From is where they come from. How large the document may be and what it is called on the web is the package's affair.
	From follow.Source
}

// Set is a named key set. It stays the same value while its keys follow the source.
type Set struct {
	symmetric bool
	document  *follow.Document[*jwt.Keys]
}

// Symmetric reports whether the keys are those of HMAC.
func (s *Set) Symmetric() bool { return s.symmetric }

// Keys returns the keys that count now, or why there are none.
func (s *Set) Keys() (*jwt.Keys, error) {
	keys, err := s.document.Current()
	if errors.Is(err, follow.ErrNotLoaded) {
		return nil, jwt.ErrNotLoaded
	}
	return keys, err
}

// Want asks for a refresh as soon as one may be made. It returns at once.
func (s *Set) Want() { s.document.Want() }

// Store is all key sets of a process.
type Store struct {
	sets      map[string]*Set
	documents follow.Documents[*jwt.Keys]
}

// Open reads the key sets that are in files. Those at URLs are not loaded until Run.
func Open(ctx context.Context, sources map[string]Source, logger *slog.Logger) *Store {
	s := &Store{sets: make(map[string]*Set, len(sources)), documents: make(follow.Documents[*jwt.Keys], len(sources))}
	for name, source := range sources {
		logger := logger.With("key_set", name)
		parse := func(document []byte) (*jwt.Keys, error) {
			keys, err := jwt.ParseKeys(document, source.Symmetric)
			if err == nil {
				logger.Info("a key set has new keys", "keys", keys.Len(), "unusable", keys.Unusable())
			}
			return keys, err
		}
		source.From.MaxBytes, source.From.Accept = jwt.MaxKeySetBytes, jwt.KeySetTypes
		s.documents[name] = follow.New(source.From, parse, logger)
		s.sets[name] = &Set{source.Symmetric, s.documents[name]}
	}
	s.documents.ReadFiles(ctx)
	return s
}

// Set returns the named key set, and false where there is none of that name.
func (s *Store) Set(name string) (*Set, bool) {
	set, ok := s.sets[name]
	return set, ok
}

// Run keeps the key sets fresh until ctx is done.
func (s *Store) Run(ctx context.Context) error { return s.documents.Run(ctx) }

// Stats returns figures of every key set by its name. A set's size is the number of keys to verify with.
func (s *Store) Stats() map[string]follow.Stats { return s.documents.Stats((*jwt.Keys).Len) }
