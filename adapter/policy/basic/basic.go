// Package basic checks that a property of the request has the name and the password of a user, as HTTP's scheme Basic has them, and finds
// out who it is.
package basic

import (
	"context"
	"errors"
	"fmt"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/credential"
	"github.com/tollgate-mesh/tollgate/config"
)

// Files gives the htpasswd files that the settings define.
type Files interface {
	// File returns the named file, and false where the settings define none of that name.
	File(name string) (File, bool)
}

// File is one named htpasswd file. Its users change when it does.
type File interface {
	// Users returns the users that count now; [ErrNotLoaded] where the file was not read yet, or another error that says why there are none.
	Users() (*Users, error)
}

// ErrNotLoaded says that a file was not read yet.
var ErrNotLoaded = errors.New("the users are not loaded yet")

// The reasons of verdicts.
const (
	// ReasonValid is that of requests that pass; all others are denials.
	ReasonValid = "password_valid"
	// ReasonAbsent means that the request has no credential, or one of another scheme.
	ReasonAbsent = "basic_absent"
	// ReasonMalformed means that what it has is no name and password.
	ReasonMalformed = "basic_malformed"
	// ReasonUnknownUser and ReasonWrongPassword are told apart in logs and records alone.
	ReasonUnknownUser   = "user_unknown"
	ReasonWrongPassword = "password_wrong"
)

// Kind compiles checks of names and passwords.
type Kind struct {
	// Files resolves the names in params.
	Files Files
	// Verifier is that of all checks.
	Verifier *Verifier
}

// Compile returns one check for each that the handler configures.
func (k Kind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	var (
		checks   []policy.Check
		problems config.Problems
	)
	for i, configured := range handler.Basic {
		file, ok := k.Files.File(configured.Users)
		if !ok {
			problems = append(problems, config.Problem{Field: fmt.Sprintf("basic[%d].users", i), Text: fmt.Sprintf(
				"names %.64q, which the adapter's settings do not define; add it under htpasswd or correct the name", configured.Users)})
			continue
		}
		c := &check{name: "basic/" + configured.Name, config: configured, file: file, verifier: k.Verifier}
		if configured.Realm != "" {
			c.denial = credential.Challenge(handler.Denial, fmt.Sprintf("Basic realm=%q, charset=%q", configured.Realm, "UTF-8"))
		}
		checks = append(checks, c)
	}
	return checks, problems
}

type check struct {
	name     string
	config   config.BasicCheck
	file     File
	verifier *Verifier
	// denial is what callers are told; nil for what the handler says.
	denial *config.Denial
}

func (c *check) Name() string { return c.name }

// Cost is that of a check with a deadline: a hash takes as long as its cost says.
func (c *check) Cost() policy.Cost { return policy.Compute }

// Recall knows what was verified before, and requests that need no verifying.
func (c *check) Recall(request *policy.Request) (policy.Verdict, bool) {
	user, l, _, v := c.begin(request)
	if v != nil {
		return *v, true
	}
	right, ok := c.verifier.recall(l)
	return c.verdict(user, l, right), ok
}

// Evaluate verifies the password.
func (c *check) Evaluate(ctx context.Context, request *policy.Request) policy.Verdict {
	user, l, users, v := c.begin(request)
	if v != nil {
		return *v
	}
	right, ok := c.verifier.recall(l)
	if !ok {
		var failure *policy.Failure
		if right, failure = c.verifier.verify(ctx, users, user, l); failure != nil {
			return policy.Failing(failure)
		}
	}
	return c.verdict(user, l, right)
}

// begin returns who says to ask and what there is to verify; or the verdict, where there is nothing.
func (c *check) begin(request *policy.Request) (user string, l login, users *Users, v *policy.Verdict) {
	end := func(v policy.Verdict) (string, login, *Users, *policy.Verdict) { return "", login{}, nil, &v }
	value, ok := request.Property(c.config.Property)
	presented, isText := value.Text()
	if ok && !isText {
		return end(c.deny(ReasonMalformed))
	}
	user, password, reason := parse(presented)
	if reason != "" {
		return end(c.deny(reason))
	}
	users, err := c.file.Users()
	switch {
	case errors.Is(err, ErrNotLoaded):
		return end(policy.Failing(policy.Fail(config.PolicyNotLoaded, "htpasswd %q: %v", c.config.Users, err)))
	case err != nil:
		return end(policy.Failing(policy.Fail(config.DependencyDown, "htpasswd %q: %v", c.config.Users, err)))
	}
	return user, c.verifier.login(users, user, password), users, nil
}

func (c *check) verdict(user string, l login, right bool) policy.Verdict {
	switch {
	case right:
		v := policy.Pass(ReasonValid)
		v.Identity = user
		return v
	case l.known:
		return c.deny(ReasonWrongPassword)
	default:
		return c.deny(ReasonUnknownUser)
	}
}

func (c *check) deny(reason string) policy.Verdict {
	v := policy.Deny(reason)
	v.Denial = c.denial
	return v
}
