// Package config turns the handler configuration that an operator wrote and Mixer encoded into a validated [Handler].
//
// Mixer checks field names and types and nothing else, so presence, ranges, exclusivity, unknown fields and unknown enum
// numbers are checked here, all of them at once, each problem with its field path. A configuration with any problem is not
// used; what survives it is the failure section, and that only where it is itself without a problem.
package config
