package mesh

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Mixer logs the building of a configuration between these two lines.
const (
	buildBegin = "Built new config.Snapshot"
	buildEnd   = "Cleaning up handler table"

	// cleanupFailed comes instead of buildEnd where requests do not end.
	cleanupFailed = "unable to cleanup handlers"
)

// noRules is a warning about a Mixer that has nothing to do for one kind of call, checks or reports, which is as a
// test may want it.
const noRules = "No destination sets found"

// generation matches the attribute that the numbering rule asks for and that no Mixer knows.
var generation = regexp.MustCompile(`mesh\.generation\.n(\d+)n`)

// generationRule numbers a configuration. It lives in a namespace of its own, where no request comes from or goes to.
func generationRule(number int) string {
	return fmt.Sprintf(`apiVersion: config.istio.io/v1alpha2
kind: rule
metadata:
  name: generation
  namespace: mesh-generation
spec:
  match: mesh.generation.n%dn == ""
  responseHeaderOperations:
  - name: x-generation
    values: ['""']
`, number)
}

// inUse says whether a log shows that the configuration with the number, or a later one, was built and is used. Mixer
// begins to clean up the old one as soon as it uses the new one.
func inUse(text string, number int) bool {
	for _, at := range generation.FindAllStringSubmatchIndex(text, -1) {
		if n, err := strconv.Atoi(text[at[2]:at[3]]); err == nil && n >= number {
			rest := text[at[1]:]
			return strings.Contains(rest, buildEnd) || strings.Contains(rest, cleanupFailed)
		}
	}
	return false
}

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
			if message = withoutGeneration(message); message != "" {
				add(message)
			}
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
		case strings.Contains(line, buildEnd), strings.Contains(line, cleanupFailed):
			return found
		}
		inside = (level[1] == "error" || level[1] == "warn") && !strings.Contains(line, noRules)
		if inside {
			found = append(found, line[len(level[0]):])
		}
	}
	return found
}

var errorCount = regexp.MustCompile(`^\d+ errors? occurred:\n?$`)

// withoutGeneration takes the complaint about the numbering rule out of a message, which may be about that alone.
func withoutGeneration(message string) string {
	var b strings.Builder
	for line := range strings.Lines(message) {
		if !generation.MatchString(line) {
			b.WriteString(line)
		}
	}
	if errorCount.MatchString(b.String()) {
		return ""
	}
	return b.String()
}
