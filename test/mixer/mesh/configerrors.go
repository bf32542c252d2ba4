package mesh

import (
	"regexp"
	"strings"
)

// Mixer logs the building of a configuration between these two lines.
const (
	buildBegin = "Built new config.Snapshot"
	buildEnd   = "Cleaning up handler table"
)

// noRules is a warning about a Mixer that has nothing to do for one kind of call, checks or reports, which is as a
// test may want it.
const noRules = "No destination sets found"

var mixerLogLine = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\S+\t(\w+)\t`)

// unread matches what Mixer logs of a resource that it cannot read at all. That happens before a configuration is
// built, again and again for a file that is not YAML.
var unread = regexp.MustCompile(`^(Error processing |Failed to convert |\S+ unable to unmarshal: )`)

// configErrors picks what a log says about configuration: the resources that could not be read, and the errors and
// warnings, with the lines that follow each, of the last build.
func configErrors(text string) []string {
	var found []string
	seen := make(map[string]bool)
	add := func(message string) {
		if !seen[message] {
			seen[message] = true
			found = append(found, message)
		}
	}
	for line := range strings.Lines(text) {
		if head := mixerLogLine.FindString(line); head != "" && unread.MatchString(line[len(head):]) {
			add(strings.TrimRight(line[len(head):], "\n"))
		}
	}
	if i := strings.LastIndex(text, buildBegin); i >= 0 {
		for _, message := range buildErrors(text[i:]) {
			add(message)
		}
	}
	return found
}

func buildErrors(text string) []string {
	var found []string
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		level := mixerLogLine.FindStringSubmatch(line)
		switch {
		case level == nil:
			if inside && strings.TrimSpace(line) != "" {
				found[len(found)-1] += "\n" + line
			}
			continue
		case strings.Contains(line, buildEnd):
			return found
		}
		inside = (level[1] == "error" || level[1] == "warn") && !strings.Contains(line, noRules)
		if inside {
			found = append(found, line[len(level[0]):])
		}
	}
	return found
}
