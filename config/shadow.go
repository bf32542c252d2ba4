package config

import (
	"google.golang.org/protobuf/proto"

	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// Shadow is a candidate that is evaluated beside a handler and decides nothing.
type Shadow struct {
	// Candidate is what is evaluated. Its Name, Report and DecisionLog are the handler's, and its Fingerprint is the one that the
	// handler will have once the candidate takes its place.
	Candidate *Handler
	// Problems are those of the section, by their paths in the handler's params. With any the candidate is not evaluated.
	Problems Problems
	// Percent is for how many of a hundred checks the candidate is evaluated, by chance: 1 to 100.
	Percent int
}

// maxPercent is every check.
const maxPercent = 100

// shadow validates the section of a handler's params; nil for none. The params are those without the section.
func shadow(params *configpb.Params, section *configpb.Shadow) *Shadow {
	if section == nil {
		return nil
	}
	s := &Shadow{Percent: maxPercent}
	candidate := section.GetCandidate()
	section.Candidate = nil // it is looked at by itself
	unknown(&s.Problems, "shadow.", section.ProtoReflect())
	if section.Percent != nil {
		if percent := section.GetPercent(); percent < 1 || percent > maxPercent {
			s.Problems.add("shadow.percent", "is %d; use 1 to %d, or remove the section", percent, maxPercent)
		} else {
			s.Percent = int(percent)
		}
	}
	if candidate == nil {
		candidate = &configpb.Params{}
	}
	s.Candidate = s.parse(params, candidate)
	return s
}

// parse validates the candidate with what it has of the handler.
func (s *Shadow) parse(params, candidate *configpb.Params) *Handler {
	const path = "shadow.candidate"
	for _, own := range []struct {
		field string
		set   bool
	}{
		{"name", candidate.GetName() != ""},
		{"report", candidate.GetReport() != nil},
		{"decision_log", candidate.GetDecisionLog() != nil},
	} {
		if own.set {
			s.Problems.add(path+"."+own.field, "is set; a candidate has the handler's own, so remove it here")
		}
	}
	if candidate.GetShadow() != nil {
		s.Problems.add(path+".shadow", "is set; a candidate has no candidate of its own, so remove it here")
	}
	whole, _ := proto.Clone(params).(*configpb.Params)
	candidate.Name, candidate.Report, candidate.DecisionLog, candidate.Shadow = whole.GetName(), whole.GetReport(), whole.GetDecisionLog(), nil
	handler, problems := parse(candidate)
	for _, p := range problems {
		switch {
		case within("name", p.Field), within("report", p.Field), within("decision_log", p.Field):
			// The handler's, and listed there.
		case p.Field == "params":
			s.Problems.add(path, "%s", p.Text)
		default:
			s.Problems.add(path+"."+p.Field, "%s", p.Text)
		}
	}
	if len(problems) == 0 && !handler.HasChecks() {
		s.Problems.add(path, "has no check, so that it could deny nothing; write the params that are to be tried")
	}
	return handler
}
