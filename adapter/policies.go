package adapter

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/observe"
	"github.com/tollgate-mesh/tollgate/adapter/policies"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config"
)

// policyPatience is how long the start waits for policies that come over the network.
const policyPatience = 5 * time.Second

// openPolicies reads the policies that settings name.
func openPolicies(s settings.Settings, observer *observe.Observer, logger *slog.Logger) (*rego.Environment, *policies.Store, error) {
	options := rego.Options{AllowHosts: s.Rego.AllowHosts}
	if s.Rego.CA != "" {
		certificates, err := os.ReadFile(s.Rego.CA)
		if err != nil {
			return nil, nil, fmt.Errorf("rego.ca: %w", err)
		}
		options.RootCAs = x509.NewCertPool()
		if !options.RootCAs.AppendCertsFromPEM(certificates) {
			return nil, nil, fmt.Errorf("rego.ca: the file %s has no certificate in PEM", s.Rego.CA)
		}
	}
	if s.Rego.Print && logger.Enabled(context.Background(), slog.LevelDebug) {
		options.Print = observer.Printed
	}
	environment := rego.NewEnvironment(options)
	store, err := policies.Open(policySources(s.Policies), environment, logger)
	if err != nil {
		return nil, nil, err
	}
	return environment, store, nil
}

func policySources(settings map[string]settings.PolicySource) map[string]policies.Source {
	sources := make(map[string]policies.Source, len(settings))
	for name, p := range settings {
		p = p.WithDefaults()
		source := policies.Source{Directory: p.Directory, Version: regoVersion(p), MaxBytes: p.MaxBytes, MaxStale: p.MaxStale}
		if b := p.Bundle; b != nil {
			source.Bundle = &policies.Bundle{
				URL: b.URL, CA: b.CA, BearerFile: b.BearerFile, MinRefresh: b.MinRefresh, MaxRefresh: b.MaxRefresh, Timeout: b.Timeout,
				Scope: b.Scope, Persist: b.Persist, Keys: make(map[string]policies.BundleKey, len(b.Keys)),
			}
			for id, key := range b.Keys {
				source.Bundle.Keys[id] = policies.BundleKey(key)
			}
		}
		sources[name] = source
	}
	return sources
}

func regoVersion(p settings.PolicySource) config.RegoVersion {
	if p.RegoVersion == settings.RegoV0 {
		return config.RegoV0
	}
	return config.RegoV1
}
