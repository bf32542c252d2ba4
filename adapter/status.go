package adapter

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/admin"
	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/readiness"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// status returns what people who look are told: names, figures and states, never a value of a secret.
func (a *Adapter) status() admin.Status {
	s := admin.Status{
		Version: a.version, Now: time.Now(), Started: a.started, Listen: a.Address(), Log: a.level.State(),
		Connections: a.transport.Connections(), Handlers: a.activity.Handlers(), Reports: a.activity.Reports(), Sinks: a.shownSinks(),
	}
	for _, f := range a.conditions.For(readiness.Reports) {
		condition := admin.Condition{Name: f.Name, Holds: f.Err == nil, Waived: f.Waived, Reports: f.Calls == readiness.Reports}
		if f.Err != nil {
			condition.Detail = f.Err.Error()
		}
		s.Conditions = append(s.Conditions, condition)
	}
	for _, source := range a.sources() {
		s.Sources = append(s.Sources, source.shown()...)
	}
	for _, file := range a.transport.Files() {
		f := admin.File{Setting: file.Setting, Expires: file.Expires, Failures: file.Failures}
		if file.Err != nil {
			f.Problem = file.Err.Error()
		}
		s.Files = append(s.Files, f)
	}
	unavailable := a.secrets.Unavailable()
	for _, name := range a.secrets.Names() {
		s.Secrets = append(s.Secrets, admin.Secret{Name: name, Available: !slices.Contains(unavailable, name)})
	}
	log := a.decisions.Stats()
	s.DecisionLog = admin.DecisionLog{Recorded: log.Recorded, Crowded: log.Crowded, Refused: log.Refused, Waiting: log.Waiting}
	if a.tracer != nil {
		t := a.tracer.Stats()
		s.Traces = &admin.Traces{Exported: t.Exported, Rejected: t.Rejected, Crowded: t.Crowded, Failed: t.Failed, Waiting: t.Waiting}
	}
	return s
}

// source is a kind of things that come from elsewhere and are kept fresh.
type source struct {
	// kind is for people; setting is the key of the settings that names them.
	kind, setting string
	stats         func() map[string]follow.Stats
	// problem returns what is wrong, if anything. It keeps the thing from being used, unless lasts says that it is used all the same.
	problem func(name string) error
	// lasts returns for how long the thing is used that was not read since, 0 for ever; nil where problem tells of that.
	lasts func(name string) time.Duration
	// revision is what is in force; nil where the kind has none.
	revision func(name string) string
}

// sources returns what comes from elsewhere, for the page and for readiness.
func (a *Adapter) sources() []source {
	return []source{
		{"key set", "key_sets", a.keySets.Stats, func(name string) error {
			set, _ := a.keySets.Set(name)
			_, err := set.Keys()
			return err
		}, nil, nil},
		{"list", "lists", a.lists.Stats, func(name string) error {
			list, _ := a.lists.Source(name)
			_, err := list.Current()
			return err
		}, nil, nil},
		{"htpasswd file", "htpasswd", a.htpasswd.Stats, func(name string) error {
			file, _ := a.htpasswd.File(name)
			_, err := file.Users()
			return err
		}, nil, nil},
		{
			"policy source", "policies", a.policyStats, a.policies.Problem,
			func(name string) time.Duration { return a.settings.Policies[name].MaxStale },
			func(name string) string { return a.policies.Stats()[name].Revision },
		},
	}
}

// policyStats are the figures of policy sources in the form of the others'.
func (a *Adapter) policyStats() map[string]follow.Stats {
	all := map[string]follow.Stats{}
	for name, s := range a.policies.Stats() {
		all[name] = follow.Stats{Loaded: s.Revision != "", Age: s.Age, Size: s.Rules, Read: s.Accepted, Failed: s.Rejected}
	}
	return all
}

// shown returns everything of the kind as the page shows it.
func (s source) shown() (shown []admin.Source) {
	all := s.stats()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		stats, err := all[name], s.problem(name)
		usable := err == nil
		if s.lasts != nil && stats.Loaded {
			usable = true
			if most := s.lasts(name); most != 0 && stats.Age > most {
				usable, err = false, errors.Join(fmt.Errorf("it was not refreshed for %s", most), err)
			}
		}
		one := admin.Source{Kind: s.kind, Name: name, Usable: usable, Entries: stats.Size, Failed: stats.Failed}
		if s.revision != nil {
			one.Revision = s.revision(name)
		}
		if stats.Loaded {
			one.Read = time.Now().Add(-stats.Age)
		}
		if err != nil {
			one.Problem = err.Error()
		}
		shown = append(shown, one)
	}
	return shown
}

func (a *Adapter) shownSinks() (sinks []admin.Sink) {
	accounts, attempts := a.pipeline.Stats(), a.pipeline.Attempts()
	for _, name := range slices.Sorted(maps.Keys(accounts)) {
		s := accounts[name]
		sink := admin.Sink{
			Name: name, Accepted: s.Accepted.Records, Recovered: s.Recovered.Records, Delivered: s.Done.Records - s.Filtered - s.DeadLettered,
			Filtered: s.Filtered, DeadLettered: s.DeadLettered, Pending: s.Pending.Records, InFlight: s.InFlight.Records, Bytes: s.Room, Oldest: s.Oldest,
			Dropped: map[string]uint64{}, Refused: map[string]uint64{}, Attempts: attempts[name].All, FailedAttempts: attempts[name].Failed,
		}
		for reason, t := range s.Dropped {
			if t.Records > 0 {
				sink.Dropped[spool.Reason(reason).String()] = t.Records
			}
		}
		for class, t := range s.Refused {
			if t.Records > 0 {
				sink.Refused[spool.Class(class).String()] = t.Records
			}
		}
		if s.Fault != nil {
			sink.Fault = s.Fault.Error()
		}
		sinks = append(sinks, sink)
	}
	return sinks
}
