//go:build race

package rego

// Raced is whether the race detector looks. It makes tests of many cases, each in one goroutine, ten times as slow and has nothing to
// find in them: with it they are fewer or none, and `make test-unit` runs them once more without.
const Raced = true
