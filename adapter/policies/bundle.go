package policies

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	opabundle "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/config"
)

// Bundle is an OPA bundle that a server offers.
type Bundle struct {
	// URL is the bundle's.
	URL string
	// CA is a file of certificates in PEM that the server is verified with; empty for those of the system.
	CA string
	// BearerFile is read at every attempt, and sent as the bearer token; empty for none.
	BearerFile string
	// MinRefresh and MaxRefresh are between which times the server is asked again; whole seconds.
	MinRefresh, MaxRefresh time.Duration
	// Timeout bounds an attempt.
	Timeout time.Duration
	// Keys are those of which one must have signed the bundle, by their id; none where nobody need have signed it.
	Keys map[string]BundleKey
	// Scope is what the signature must be for; empty where it must be for none.
	Scope string
	// Persist is a directory that keeps the last good bundle; empty for none.
	Persist string
}

// BundleKey is a key that bundles are verified with.
type BundleKey struct {
	// File has the public key in PEM, or an HMAC secret. It is read once.
	File string
	// Algorithm is the signatures'.
	Algorithm string
}

// service is what the bundle's server is called in OPA's configuration.
const service = "server"

// bundled follows a bundle with OPA's bundle plugin, which downloads, verifies, keeps and activates it in a store. That store is only a
// gate: what is activated there is copied into a generation of its own, and where that cannot decide, the activation fails.
type bundled struct {
	target
	name   string
	config []byte
	client *client
	// query is that of the URL, with its question mark, as errors show it; empty for none. It may be a credential.
	query string
}

func newBundle(name string, t target) (*bundled, error) {
	b := t.source.Bundle
	u, err := url.Parse(b.URL)
	if err != nil {
		return nil, errors.New("url is none") // it may hold a credential
	}
	keys := map[string]any{}
	for id, key := range b.Keys {
		content, err := os.ReadFile(key.File)
		if err != nil {
			return nil, fmt.Errorf("keys.%s.file: %w", id, err)
		}
		if err := usableKey(content, key.Algorithm); err != nil {
			return nil, fmt.Errorf("keys.%s.file: %s %w", id, key.File, err)
		}
		keys[id] = map[string]any{"key": strings.TrimSpace(string(content)), "algorithm": key.Algorithm, "scope": b.Scope}
	}
	source := map[string]any{
		"service": service, "resource": u.RequestURI(), "size_limit_bytes": t.source.MaxBytes, "persist": b.Persist != "",
		"polling": map[string]any{"min_delay_seconds": int(b.MinRefresh.Seconds()), "max_delay_seconds": int(b.MaxRefresh.Seconds())},
	}
	if len(keys) > 0 {
		source["signing"] = map[string]any{"scope": b.Scope}
	}
	whole := map[string]any{
		"services": map[string]any{service: map[string]any{"url": u.Scheme + "://" + u.Host, "credentials": map[string]any{"plugin": clientName}}},
		"bundles":  map[string]any{name: source},
		"keys":     keys,
	}
	if info, err := os.Stat(b.Persist); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("persist is %q, which is no directory; name one, which is made if it is not there", b.Persist)
	}
	if b.Persist != "" {
		whole["persistence_directory"] = b.Persist
	}
	f := &bundled{target: t, name: name}
	if query := strings.TrimRight(u.RawQuery, "/"); query != "" { // OPA leaves the slash out
		f.query = strings.Trim(strconv.Quote("?"+query), `"`)
	}
	if f.config, err = json.Marshal(whole); err != nil {
		return nil, err
	}
	if f.client, err = newClient(b, t.source.MaxBytes); err != nil {
		return nil, err
	}
	return f, nil
}

// usableKey returns an error for what no signature can be verified with. OPA would find that out at the first bundle, and say that the
// signature is wrong.
func usableKey(content []byte, algorithm string) error {
	if strings.HasPrefix(algorithm, "HS") {
		if len(bytes.TrimSpace(content)) == 0 {
			return errors.New("is empty; it must hold the secret that bundles are signed with")
		}
		return nil
	}
	if block, _ := pem.Decode(bytes.TrimSpace(content)); block == nil {
		return fmt.Errorf("has no key in PEM; with %s it must hold a public key or a certificate", algorithm)
	}
	return nil
}

// run starts the plugin and stops it when ctx is done.
func (b *bundled) run(ctx context.Context, tried func()) {
	manager, err := b.start(ctx, tried)
	if err != nil {
		b.reject(err)
	}
	if manager != nil {
		<-ctx.Done()
		manager.Stop(context.WithoutCancel(ctx))
	}
	b.client.close()
}

func (b *bundled) start(ctx context.Context, tried func()) (*plugins.Manager, error) {
	store := &gate{Store: inmem.New(), bundled: b}
	manager, err := plugins.New(b.config, "tollgate", store, plugins.Logger(logging.NewNoOpLogger()), plugins.ConsoleLogger(logging.NewNoOpLogger()),
		plugins.WithParserOptions(parserOptions(b.source.Version)))
	if err != nil {
		return nil, err
	}
	manager.Register(clientName, b.client)
	parsed, err := bundle.NewConfigBuilder().WithBytes(manager.GetConfig().Bundles).WithServices(manager.Services()).WithKeyConfigs(manager.PublicKeys()).Parse()
	if err != nil {
		manager.Stop(ctx)
		return nil, err
	}
	plugin := bundle.New(parsed, manager)
	once := sync.OnceFunc(tried)
	plugin.Register("tollgate", func(status bundle.Status) {
		defer once()
		if b.client.activated {
			b.client.whole = status.Code != ""
		}
		switch {
		case ctx.Err() != nil: // it was cut short
		case status.Code == "":
			b.Confirm()
		case store.refused != nil:
			b.reject(store.refused)
		case b.client.activated:
			b.reject(fmt.Errorf("it is in force, but was not kept: %w", b.describe(status)))
		default:
			b.reject(b.describe(status))
		}
		store.refused = nil
	})
	manager.Register(bundle.Name, plugin)
	if err := manager.Start(ctx); err != nil {
		manager.Stop(ctx)
		return nil, err
	}
	b.tellOfKept()
	return manager, nil
}

// tellOfKept says that OPA, which has read the kept bundle by now and tells nobody, did not take it.
func (b *bundled) tellOfKept() {
	if b.source.Bundle.Persist == "" {
		return
	}
	file := filepath.Join(b.source.Bundle.Persist, "bundles", b.name, "bundle.tar.gz")
	// In this order: a bundle is in force before it is kept.
	if _, err := os.Stat(file); err == nil && b.Stats().Revision == "" {
		b.logger.Error("the bundle that was kept is not taken: it is damaged, not signed by these keys, or does not compile any more", "file", file)
	}
}

// describe says why OPA did not take a bundle, without the lines of policies and the query that OPA would show.
func (b *bundled) describe(status bundle.Status) error {
	switch {
	case len(status.Errors) == 0 && b.query != "":
		return errors.New(strings.ReplaceAll(status.Message, b.query, "?…"))
	case len(status.Errors) == 0:
		return errors.New(status.Message)
	}
	return rego.DescribeErrors(status.Errors)
}

// gate is the store that the plugin activates bundles in. The plugin's transactions come one after another.
type gate struct {
	storage.Store
	bundled *bundled
	// written is whether the open transaction has changed anything.
	written bool
	// refused is why the last transaction was not committed; nil where it was.
	refused error
}

// NewTransaction opens a transaction.
func (g *gate) NewTransaction(ctx context.Context, params ...storage.TransactionParams) (storage.Transaction, error) {
	txn, err := g.Store.NewTransaction(ctx, params...)
	if err == nil && len(params) > 0 && params[0].Write {
		g.written = false
	}
	return txn, err
}

// Write writes, among the rest, the manifest of every bundle that is activated.
func (g *gate) Write(ctx context.Context, txn storage.Transaction, op storage.PatchOp, path storage.Path, value any) error {
	g.written = true
	return g.Store.Write(ctx, txn, op, path, value)
}

// Commit makes a generation of what is in the transaction before it is committed, and activates it after.
func (g *gate) Commit(ctx context.Context, txn storage.Transaction) error {
	if !g.written {
		return g.Store.Commit(ctx, txn)
	}
	manifest, err := g.manifest(ctx, txn)
	if storage.IsNotFound(err) { // OPA prepares the store before it has any bundle
		return g.Store.Commit(ctx, txn)
	}
	var generation *rego.Generation
	if err == nil {
		generation, err = g.compile(ctx, txn, manifest)
	}
	if err != nil {
		g.refused = err
		g.Abort(ctx, txn)
		return err
	}
	if err := g.Store.Commit(ctx, txn); err != nil {
		return err
	}
	g.bundled.client.activated = true
	g.bundled.activate(generation) //nolint:contextcheck // a half of it would be wrong, so it goes to its end
	return nil
}

func (g *gate) compile(ctx context.Context, txn storage.Transaction, manifest manifest) (generation *rego.Generation, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("reading the bundle panicked: %T\n%s", r, debug.Stack())
		}
	}()
	content, err := g.content(ctx, txn, manifest)
	if err != nil {
		return nil, err
	}
	return g.bundled.Compile(content)
}

// content copies what the store holds.
func (g *gate) content(ctx context.Context, txn storage.Transaction, manifest manifest) (rego.Content, error) {
	content := rego.Content{Modules: map[string]rego.Module{}, Version: g.bundled.source.Version, Revision: revisionOf(manifest.Revision)}
	if manifest.RegoVersion != nil {
		switch *manifest.RegoVersion {
		case 0:
			content.Version = config.RegoV0
		case 1:
			content.Version = config.RegoV1
		default:
			return content, fmt.Errorf("the manifest's rego_version is %d; use 0 or 1", *manifest.RegoVersion)
		}
	}
	ids, err := g.ListPolicies(ctx, txn)
	if err != nil {
		return content, err
	}
	files := tree{}
	for _, id := range ids {
		text, err := g.GetPolicy(ctx, txn, id)
		if err != nil {
			return content, err
		}
		file := g.file(id)
		files[file] = string(text)
		if !isModule(file) {
			continue
		}
		version, err := g.moduleVersion(ctx, txn, id)
		if err != nil {
			return content, err
		}
		content.Modules[file] = rego.Module{Text: string(text), Version: version}
	}
	root, err := g.Read(ctx, txn, storage.RootPath)
	if err != nil {
		return content, err
	}
	if content.Data, err = withoutSystem(root); err != nil {
		return content, err
	}
	if content.Revision == "" {
		data, err := json.Marshal(content.Data)
		if err != nil {
			return content, err
		}
		files["data.json"] = string(data)
		content.Revision = files.digest()
	}
	return content, nil
}

// file is a module's path in the bundle.
func (g *gate) file(id string) string {
	return strings.TrimPrefix(strings.TrimPrefix(id, g.bundled.name), "/")
}

// manifest is what counts of a bundle's manifest. OPA has already held the content against its roots.
type manifest struct {
	Revision    string `json:"revision"`
	RegoVersion *int   `json:"rego_version"`
}

func (g *gate) manifest(ctx context.Context, txn storage.Transaction) (m manifest, err error) {
	value, err := g.Read(ctx, txn, opabundle.ManifestStoragePath(g.bundled.name))
	if err != nil {
		return m, err
	}
	document, err := json.Marshal(value)
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(document, &m)
}

// moduleVersion is the language that OPA read a module in. It keeps that only where it is not the default.
func (g *gate) moduleVersion(ctx context.Context, txn storage.Transaction, id string) (config.RegoVersion, error) {
	at := append(slices.Clone(opabundle.ModulesInfoBasePath), strings.Trim(id, "/"), "rego_version")
	value, err := g.Read(ctx, txn, at)
	switch {
	case storage.IsNotFound(err):
		return g.bundled.source.Version, nil
	case err != nil:
		return 0, err
	}
	switch fmt.Sprint(value) {
	case "0":
		return config.RegoV0, nil
	case "1":
		return config.RegoV1, nil
	}
	return 0, fmt.Errorf("the manifest's rego_version of %s is %v; use 0 or 1", g.file(id), value)
}

// withoutSystem leaves out what OPA keeps in the store for itself, beside what a bundle may have in the same place.
func withoutSystem(root any) (map[string]any, error) {
	data, ok := root.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the bundle's data is a %T and no object", root)
	}
	data = maps.Clone(data)
	for _, own := range []storage.Path{opabundle.BundlesBasePath, opabundle.ModulesInfoBasePath} {
		parent, _ := data[own[0]].(map[string]any)
		parent = maps.Clone(parent)
		delete(parent, own[1])
		data[own[0]] = parent
		if len(parent) == 0 {
			delete(data, own[0])
		}
	}
	return data, nil
}

func parserOptions(version config.RegoVersion) ast.ParserOptions {
	if version == config.RegoV0 {
		return ast.ParserOptions{RegoVersion: ast.RegoV0}
	}
	return ast.ParserOptions{RegoVersion: ast.RegoV1}
}
