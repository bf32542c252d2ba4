package rego

import (
	_ "embed"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// pureList names the built-ins whose result depends on their arguments alone. OPA's own mark of nondeterminism is not enough:
// certificate verification reads the clock without it. So a built-in counts as pure only if it stands in this list, and one
// that comes with a new version of OPA is volatile until somebody has looked at it.
//
//go:embed pure_builtins.txt
var pureList string

var pure = func() map[string]bool {
	names := map[string]bool{}
	for line := range strings.Lines(pureList) {
		if name := strings.TrimSpace(line); name != "" && !strings.HasPrefix(name, "#") {
			names[name] = true
		}
	}
	return names
}()

// unavailable built-ins, by name or by everything below a name: they send requests on a caller's behalf, wait on the network, or
// show the process's environment. Those for JSON schemas follow a $ref to a file, whatever capabilities say, and their errors show
// what it holds. The last three can end the process, by memory or by stack, with a single argument that a caller may choose.
var unavailable = []string{"http.send", "net.lookup_ip_addr", "opa.runtime", "json.match_schema", "json.verify_schema", "bits.lsh", "graphql.", "rego.parse_module"}

// networking built-ins become available where settings allow hosts.
var networking = []string{ast.HTTPSend.Name, ast.NetLookupIPAddr.Name}

func isUnavailable(builtin string) bool {
	return slices.ContainsFunc(unavailable, func(name string) bool {
		return builtin == name || strings.HasSuffix(name, ".") && strings.HasPrefix(builtin, name)
	})
}

// capabilities are what policies may use: nothing that reaches the network but the hosts, if there are any.
func capabilities(hosts []string) *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	kept := c.Builtins[:0:0]
	for _, b := range c.Builtins {
		if !isUnavailable(b.Name) || len(hosts) > 0 && slices.Contains(networking, b.Name) {
			kept = append(kept, b)
		}
	}
	c.Builtins = kept
	c.AllowNet = append([]string{}, hosts...)
	return c
}
