//go:build !race

package rego

// Raced is whether the race detector looks.
const Raced = false
