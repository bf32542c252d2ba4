package config

import (
	"fmt"
	"strings"
)

// Problem is one thing wrong with a configuration.
type Problem struct {
	// Field is the path of the field, such as headers[0].sha256[1].
	Field string
	// Text names the value found, unless it may be a secret, and says what to do.
	Text string
}

// String returns the field and the text.
func (p Problem) String() string { return p.Field + ": " + p.Text }

// Problems is every problem of one configuration, as an error. Its class is [ConfigurationFailure].
type Problems []Problem

// maxProblemsShown keeps a hostile configuration from filling a log.
const maxProblemsShown = 20

// Error lists the problems, one after the other.
func (p Problems) Error() string {
	var b strings.Builder
	for i, problem := range p {
		if i == maxProblemsShown {
			fmt.Fprintf(&b, "; and %d more", len(p)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(problem.String())
	}
	return b.String()
}

// maxProblems keeps a hostile configuration of a few megabytes from making gigabytes of text.
const maxProblems = 100

// add appends a problem while there is room, then once a word that there are more. One of the failure section still follows
// that: the modes hang on it, so a flood of others must not hide it.
func (p *Problems) add(field, format string, args ...any) {
	if len(*p) == maxProblems {
		*p = append(*p, Problem{Field: "params", Text: fmt.Sprintf("has more than the %d problems listed; mend these first", maxProblems)})
	}
	if len(*p) < maxProblems || len(*p) == maxProblems+1 && decidesModes(field) {
		*p = append(*p, Problem{Field: field, Text: fmt.Sprintf(format, args...)})
	}
}

// decidesModes reports whether the failure modes are read from the field.
func decidesModes(field string) bool { return within("failure", field) || within("fail_close", field) }

// decidesHiding reports whether the field says which values of records are hidden, or may say so in a later version.
func decidesHiding(field string) bool {
	for _, hides := range []string{"report.only", "report.drop", "report.mask"} {
		if within(hides, field) {
			return true
		}
	}
	return field == "report" || strings.HasPrefix(field, "report.(")
}

// within reports whether path is the field or something below it.
func within(field, path string) bool {
	rest, ok := strings.CutPrefix(path, field)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// quote returns a value found in a configuration in a form that fits into a log line.
func quote(value string) string {
	const most = 64
	if len(value) > most {
		return fmt.Sprintf("%q… (%d bytes)", strings.ToValidUTF8(value[:most], ""), len(value))
	}
	return fmt.Sprintf("%q", value)
}
