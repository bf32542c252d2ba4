// Package list checks whether a value is on a list of those that may pass, or of those that may not.
package list

import (
	"context"
	"errors"
	"fmt"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// Sources gives the lists that the settings define.
type Sources interface {
	// Source returns the named list, and false where the settings define none of that name.
	Source(name string) (Source, bool)
}

// Source is one named list. What is on it changes when its document does.
type Source interface {
	// Type returns what its entries are, which never changes.
	Type() config.EntryType
	// Current returns the list that counts now; ErrNotLoaded where there was none yet, or another error that says why there is none.
	Current() (*List, error)
}

// ErrNotLoaded means that a list is still to be loaded for the first time.
var ErrNotLoaded = errors.New("the list is not loaded yet")

// Kind compiles list checks.
type Kind struct {
	// Sources resolves the names in params.
	Sources Sources
}

// Compile returns one check for each that the handler configures.
func (k Kind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	var (
		checks   []policy.Check
		problems config.Problems
	)
	for i := range handler.Lists {
		configured := &handler.Lists[i]
		c := &check{name: "list/" + configured.Name, property: configured.Property, deniesListed: configured.DeniesListed}
		if configured.Lifetime > 0 {
			c.lifetime = policy.For(configured.Lifetime)
		}
		var found config.Problems
		c.source, found = k.source(fmt.Sprintf("lists[%d]", i), configured)
		checks, problems = append(checks, c), append(problems, found...)
	}
	return checks, problems
}

func (k Kind) source(field string, configured *config.ListCheck) (source Source, problems config.Problems) {
	if configured.Source != "" {
		source, ok := k.Sources.Source(configured.Source)
		if !ok {
			problems = append(problems, config.Problem{
				Field: field + ".source",
				Text:  fmt.Sprintf("names %.64q, which the adapter's settings do not define; add it under lists or correct the name", configured.Source),
			})
		}
		return source, problems
	}
	l := newList(configured.Type)
	for i, entry := range configured.Entries {
		if err := l.add(entry); err != nil {
			problems = append(problems, config.Problem{Field: fmt.Sprintf("%s.entries[%d]", field, i), Text: err.Error()})
		}
	}
	return inline{l}, problems
}

// inline is a list that stands in the handler.
type inline struct{ list *List }

func (i inline) Type() config.EntryType  { return i.list.Type() }
func (i inline) Current() (*List, error) { return i.list, nil }

type check struct {
	name         string
	property     config.Property
	deniesListed bool
	source       Source
	lifetime     config.Lifetime
}

// The reasons of list verdicts.
const (
	ReasonListed     = "listed"
	ReasonNotListed  = "not_listed"
	ReasonMissing    = "list_value_missing"
	ReasonUnreadable = "list_value_unreadable"
)

func (c *check) Name() string { return c.name }

// Cost returns Compute for regular expressions, because how long they take is up to whoever wrote them.
func (c *check) Cost() policy.Cost {
	if c.source.Type() == config.Regex {
		return policy.Compute
	}
	return policy.Instant
}

// Evaluate looks for the value in the list as it is now. A value that is absent, or that cannot be compared with the entries, is
// denied whatever the list is for.
func (c *check) Evaluate(ctx context.Context, request *policy.Request) policy.Verdict {
	v := c.verdict(ctx, request)
	v.Lifetime = c.lifetime
	return v
}

func (c *check) verdict(ctx context.Context, request *policy.Request) policy.Verdict {
	value, ok := c.value(request)
	if text, isText := value.Text(); !ok || isText && text == "" {
		return policy.Deny(ReasonMissing)
	}
	list, err := c.source.Current()
	switch {
	case errors.Is(err, ErrNotLoaded):
		return policy.Failing(policy.Fail(config.PolicyNotLoaded, "%s: %v", c.name, err))
	case err != nil:
		return policy.Failing(policy.Fail(config.DependencyDown, "%s: %v", c.name, err))
	}
	listed, err := list.Contains(ctx, value)
	switch {
	case errors.Is(err, ErrUnreadable):
		return policy.Deny(ReasonUnreadable)
	case err != nil:
		return policy.Failing(policy.Fail(config.Timeout, "%s was still comparing at its deadline", c.name))
	case listed && c.deniesListed:
		return policy.Deny(ReasonListed)
	case listed:
		return policy.Pass(ReasonListed)
	case c.deniesListed:
		return policy.Pass(ReasonNotListed)
	default:
		return policy.Deny(ReasonNotListed)
	}
}

func (c *check) value(request *policy.Request) (attribute.Value, bool) {
	if c.property.Name != "" {
		return request.Property(c.property)
	}
	if request.Value == nil {
		return attribute.Value{}, false
	}
	return *request.Value, true
}
