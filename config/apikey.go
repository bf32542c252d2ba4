package config

import (
	"fmt"
	"strings"

	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// Bounds of API key checks.
const (
	MaxAPIKeyChecks  = 256
	MaxKeysPerCheck  = 10_000
	MaxIdentityBytes = 128
)

func apiKeys(problems *Problems, params []*configpb.ApiKeyCheck) []APIKeyCheck {
	if len(params) > MaxAPIKeyChecks {
		problems.add("api_keys", "has %d checks; use at most %d", len(params), MaxAPIKeyChecks)
		return nil
	}
	var checks []APIKeyCheck
	for i, keys := range params {
		checks = append(checks, apiKeyCheck(problems, fmt.Sprintf("api_keys[%d]", i), keys))
	}
	return checks
}

func apiKeyCheck(problems *Problems, field string, params *configpb.ApiKeyCheck) APIKeyCheck {
	check := APIKeyCheck{Property: propertyOrInstance(problems, field, params.SubjectProperty, params.ActionProperty)}
	check.Name = name(problems, field+".name", params.GetName(), labelOr(check.Property, "api_key"))
	switch known := len(params.GetKeys()) + len(params.GetSecrets()); {
	case known == 0:
		problems.add(field, "knows no key, so it could never pass: add keys or secrets")
	case known > MaxKeysPerCheck:
		problems.add(field, "has %d keys and secrets; use at most %d", known, MaxKeysPerCheck)
		return check
	}
	first := make(map[Digest]int, len(params.GetKeys()))
	for i, key := range params.GetKeys() {
		path := fmt.Sprintf("%s.keys[%d]", field, i)
		checkIdentity(problems, path+".identity", key.GetIdentity())
		digest, ok := expectedDigest(problems, path+".sha256", key.GetSha256())
		if !ok {
			continue
		}
		if before, known := first[digest]; known {
			problems.add(path+".sha256", "is that of keys[%d], so whose key it is could not be told; keep one", before)
		}
		first[digest] = i
		check.Keys = append(check.Keys, APIKey{Identity: key.GetIdentity(), Digest: digest})
	}
	check.Secrets = secrets(problems, field+".secrets", params.GetSecrets())
	return check
}

func checkIdentity(problems *Problems, field, identity string) {
	switch {
	case identity == "":
		problems.add(field, "is empty; say whose key it is")
	case len(identity) > MaxIdentityBytes:
		problems.add(field, "has %d bytes; use at most %d", len(identity), MaxIdentityBytes)
	default:
		for _, r := range identity {
			letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
			if !letter && !strings.ContainsRune("._-@:/", r) {
				problems.add(field, `has the character %q; use A-Z, a-z, 0-9 and "._-@:/"`, r)
				return
			}
		}
	}
}
