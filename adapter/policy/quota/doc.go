// Package quota limits what quota calls may take.
//
// It is a kind of check: a handler's quotas are one check, which passes with the amount that it grants and denies where there is
// nothing left. So budgets, overload, panics, failure modes and lifetimes are what they are everywhere.
//
// Counts are kept in a [Store], under keys that hold the handler's fingerprint, not its bytes: Mixer encodes equal handlers in
// different ways. Nothing gives a count back before its time: not a full store, not a clock that is set back.
package quota
