// Package htpasswd holds the htpasswd files that settings name, and follows them.
package htpasswd

import (
	"context"
	"errors"
	"log/slog"

	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/policy/basic"
)

// Store is all htpasswd files of a process.
type Store struct {
	documents follow.Documents[*basic.Users]
}

type file struct {
	document *follow.Document[*basic.Users]
}

// Users returns the users that count now, or why there are none.
func (f file) Users() (*basic.Users, error) {
	users, err := f.document.Current()
	if errors.Is(err, follow.ErrNotLoaded) {
		return nil, basic.ErrNotLoaded
	}
	return users, err
}

// Open reads the files. How large they may be is the package's affair.
func Open(ctx context.Context, sources map[string]follow.Source, logger *slog.Logger) *Store {
	s := &Store{documents: make(follow.Documents[*basic.Users], len(sources))}
	for name, source := range sources {
		source.MaxBytes = basic.MaxFileBytes
		s.documents[name] = follow.New(source, basic.ParseUsers, logger.With("htpasswd", name))
	}
	s.documents.ReadFiles(ctx)
	return s
}

// File returns the named file, and false where there is none of that name.
func (s *Store) File(name string) (basic.File, bool) {
	document, ok := s.documents[name]
	if !ok {
		return nil, false
	}
	return file{document}, true
}

// Run follows the files until ctx is done.
func (s *Store) Run(ctx context.Context) error { return s.documents.Run(ctx) }

// Stats returns figures of every file by its name. A file's size is the number of its users.
func (s *Store) Stats() map[string]follow.Stats { return s.documents.Stats((*basic.Users).Len) }
