// Package docs_test holds the pages together: every link leads somewhere, and every page and example can be found.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	fences = regexp.MustCompile("(?s)\n *```.*?\n *```")
	code   = regexp.MustCompile("`[^`\n]*`")
	links  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	titles = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	hidden = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// root is the repository's, from here.
const root = ".."

// pages returns the repository's Markdown by its path there, without code blocks, in which nothing is a link or a title.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/sinks/*.md", "bench/*.md"} {
		paths, err := fs.Glob(os.DirFS(root), pattern)
		require.NoError(t, err)
		require.NotEmpty(t, paths, pattern)
		for _, path := range paths {
			content, err := os.ReadFile(filepath.Join(root, path))
			require.NoError(t, err)
			all[path] = fences.ReplaceAllString(string(content), "")
		}
	}
	return all
}

// anchors are those that GitHub makes of a page's titles.
func anchors(page string) map[string]bool {
	all, seen := map[string]bool{}, map[string]int{}
	for _, title := range titles.FindAllStringSubmatch(page, -1) {
		text := links.ReplaceAllString(title[1], "]")
		anchor := strings.ReplaceAll(hidden.ReplaceAllString(strings.ToLower(text), ""), " ", "-")
		if n := seen[anchor]; n > 0 {
			all[anchor+"-"+strconv.Itoa(n)] = true
		}
		seen[anchor]++
		all[anchor] = true
	}
	return all
}

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for path, page := range all {
		for _, link := range links.FindAllStringSubmatch(code.ReplaceAllString(page, ""), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			file, anchor, anchored := strings.Cut(link[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			_, err := os.Stat(filepath.Join(root, target))
			if assert.NoError(t, err, "%s links to %s", path, link[1]) && anchored {
				assert.True(t, anchors(all[target])[anchor], "%s links to %s, and there is no such title", path, link[1])
			}
		}
	}
}

// A page that nothing leads to is found by nobody.
func TestEveryPageAndExampleIsListed(t *testing.T) {
	t.Parallel()
	all := pages(t)
	listed := func(page, file string) {
		from, err := filepath.Rel(filepath.Dir(page), file)
		require.NoError(t, err)
		linked := slices.ContainsFunc(links.FindAllStringSubmatch(all[page], -1), func(link []string) bool { return link[1] == filepath.ToSlash(from) })
		assert.True(t, linked, "%s does not link to %s", page, file)
	}
	for path := range all {
		switch filepath.Dir(path) {
		case "docs":
			listed("README.md", path)
		case "docs/sinks":
			listed("docs/settings.md", path)
		}
	}
	examples, err := fs.Glob(os.DirFS(root), "operatorconfig/examples/*")
	require.NoError(t, err)
	require.NotEmpty(t, examples)
	for _, example := range examples {
		listed("docs/examples.md", example)
	}
}
