package rego

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	opaprint "github.com/open-policy-agent/opa/v1/topdown/print"

	"github.com/tollgate-mesh/tollgate/config"
)

// Options say what policies may do beside computing. The zero value lets them do nothing.
type Options struct {
	// AllowHosts are those that http.send and net.lookup_ip_addr may ask: a name or an IPv4 address, alone for all ports or as
	// host:port. Without any, policies that name these built-ins do not compile.
	AllowHosts []string
	// RootCAs verify those hosts in place of the system's certificates; nil for the system's.
	RootCAs *x509.CertPool
	// Print is told what policies print, by many evaluations at once; nil for nobody, and then print takes no time.
	Print func(Printed)
}

// Printed is what one call of print says. It may show anything of a request.
type Printed struct {
	// Handler is the name of the handler whose policy it is.
	Handler string
	// Place is the file and line.
	Place string
	// Text is about a kilobyte at most.
	Text string
}

// Environment is what the policies of a process may do beside computing. It is immutable.
type Environment struct {
	capabilities *ast.Capabilities
	printer      opaprint.Hook // nil where nobody listens
	transport    topdown.CustomizeRoundTripper
}

// NewEnvironment makes an environment.
func NewEnvironment(options Options) *Environment {
	hosts := make([]string, 0, len(options.AllowHosts))
	for _, allowed := range options.AllowHosts {
		hosts = append(hosts, hostOf(allowed))
	}
	e := &Environment{capabilities: capabilities(hosts)}
	if len(hosts) > 0 {
		e.transport = newNetwork(options.AllowHosts, options.RootCAs).roundTripper
	}
	if options.Print != nil {
		e.printer = printHook(options.Print)
	}
	return e
}

// Capabilities returns what policies may use, for OPA's own tools.
func (e *Environment) Capabilities() *ast.Capabilities { return e.capabilities }

// readingOptions make http.send read files and the process's environment.
var readingOptions = []string{
	"tls_ca_cert_file", "tls_client_cert_file", "tls_client_key_file",
	"tls_ca_cert_env_variable", "tls_client_cert_env_variable", "tls_client_key_env_variable",
}

// checkRequests finds the names of options with which http.send reads what is the process's. A name that is put together only while the
// policy runs is left to network, which sends nothing with what was read.
func (e *Environment) checkRequests(name string, module *ast.Module) (problems config.Problems) {
	if e.transport == nil {
		return nil
	}
	ast.WalkTerms(module, func(term *ast.Term) bool {
		if text, ok := term.Value.(ast.String); ok && slices.Contains(readingOptions, string(text)) {
			problems = append(problems, config.Problem{
				Field: place(name, term.Location),
				Text:  fmt.Sprintf("names %s, with which http.send would read what is the process's; the setting rego.ca says whom it believes", string(text)),
			})
		}
		return false
	})
	return problems
}

// place is where something stands in a policy.
func place(fallback string, at *ast.Location) string {
	if at == nil || at.File == "" {
		return fallback
	}
	return fmt.Sprintf("%s:%d:%d", at.File, at.Row, at.Col)
}

// printHook makes a print hook of OPA's.
type printHook func(Printed)

// maxPrinted bounds what one print may say.
const maxPrinted = 1024

type handlerKey struct{}

// forHandler tells print whose policy is evaluated.
func (p *program) forHandler(ctx context.Context, handler string) context.Context {
	if !p.prints {
		return ctx
	}
	return context.WithValue(ctx, handlerKey{}, handler)
}

// Print hands on what a policy prints.
func (h printHook) Print(at opaprint.Context, text string) error {
	printed := Printed{Text: shorten(text, maxPrinted), Place: place("", at.Location)}
	printed.Handler, _ = at.Context.Value(handlerKey{}).(string)
	h(printed)
	return nil
}
