// Package report keeps what Mixer hands over: a call is accepted into the queues of the sinks that its handler names, answered,
// and delivered behind the answer.
//
//	Accept ─→ queue of sink A ─→ batches ─→ sink A
//	       └→ queue of sink B ─→ batches ─→ sink B ─→ (refused for good) dead letters
//
// Every sink has a queue, a cursor and a budget of its own, so one that is dead starves nobody. At all times, for each sink and read
// as one snapshot,
//
//	accepted + recovered = delivered + filtered + dead-lettered + dropped{reason} + pending
//
// What was answered with an error is refused and not in the sum. See package spool, which keeps these accounts.
package report
