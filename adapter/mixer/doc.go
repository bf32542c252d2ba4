// Package mixer is the door through which Istio's Mixer comes in: it turns the calls of Mixer's templates into policy requests
// and decisions into Mixer's replies. Nothing behind it knows the wire, and it decides nothing.
//
// A check call that gRPC hands over is always answered with a CheckResult; one larger than the limit for messages is refused by
// gRPC itself. A gRPC error would reach the proxy as INTERNAL, which a mesh with
// policyCheckFailOpen turns into an allow; so a call that cannot even be decoded is answered with UNAVAILABLE in the result.
package mixer
