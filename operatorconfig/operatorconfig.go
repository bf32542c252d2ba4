// Package operatorconfig holds the resources that tell Mixer about Tollgate.
// They travel in the binary, so that what operators apply always describes the
// version that answers.
package operatorconfig

import _ "embed"

//go:embed tollgate.yaml
var bundle string

// Bundle returns the template resources and the adapter resource as YAML
// documents, in the order in which they must be applied. Its opening comment
// explains that order, upgrades and removal.
func Bundle() string { return bundle }
