// Package spool keeps what was accepted until it is delivered: a bounded queue of frames, one for each sink, that outlives the
// process and the machine's power.
//
// A frame is one report call: opaque bytes, how many records are in them, a sequence and an arrival time. [Queue.Reserve] books
// room, [Reservation.Append] returns when the frame is kept, [Queue.Next] hands frames out in order, [Queue.Done] ends them in
// any order. [Disk] keeps frames in files; [Memory] follows the same rules without.
//
// A call that goes to several sinks reserves room in all their queues, then starts to append to all, then waits for all, so that
// a full queue refuses the call before another has it, and the disks work at the same time. Where one of several appends fails
// the others have the frame: the call is refused, and those sinks get it nonetheless.
//
// # What holds
//
//  1. Acknowledged means kept. Append returns nil only after the frame, the file's length and its name in the directory are
//     synced (with [SyncOS]: written). Every acknowledged frame is handed out by this process or a later one until it is done,
//     or counted as dropped with a reason, or shows as [Damage].
//  2. Refused means gone. A frame whose Append failed is never handed out by this process, nor by a later one once the disk let
//     itself be cut back; see below for when it does not.
//  3. A frame is handed out as it was appended or not at all, under its own sequence, and once a process.
//  4. No sequence is given twice by who begins at [Queue.NextSequence], not even after the disk forgot frames that were
//     delivered.
//  5. The segments together are never larger than MaxBytes, whatever is in them.
//  6. In every snapshot of [Stats], in frames, records and bytes: Accepted + Recovered = Done + Dropped + Pending.
//  7. Neither damage nor a straggler hides or holds up other frames.
//
// # Files
//
//	lock                    locked by the process that has the directory
//	state                   two slots: id, cursor, next segment, next sequence, time, whether it was closed
//	0000000000000001.seg    segments: a header and then records, in the order of appending
//	0000000000000002.seg
//
// segment.go gives the format byte by byte. Segments are only ever appended to, and only by the process that made them: who
// opens a directory begins a new one. So whatever was synced once is never under a write again.
//
// A record's checksums are seeded with the queue's random id, the segment's number and the record's offset. A record is valid
// nowhere else: no block that a file system brings back and no payload that contains a record can pass for one. The header has a
// checksum of its own, so that a bad payload costs one frame exactly, and looking for the next record after a bad header costs
// no more than reading on.
//
// The cursor is where the oldest frame begins that is not done. It is written at most CursorEvery after it moved, into the slot
// whose turn it is, in place: that takes no space and leaves the other slot whole. A segment goes as soon as nothing in it is
// pending, whether older ones are there or not; the newest stays until the state has taken over its number.
//
// # Memory
//
// A queue on disk knows its frames only by blocks of up to 64 KiB, which are read at once and dropped at once, so a million
// small frames that wait take a few hundred kilobytes of memory. Blocks know their counts, which is why frames can be dropped
// without being read, and why a frame that is missing when its block is read can be counted.
//
// # Committing
//
// One goroutine writes. It takes all frames that wait, up to 4 MiB, writes them behind each other and syncs once; all who wait
// are told the same. While it syncs the next group gathers, so the more appenders there are the less each sync costs. Payloads
// of 16 KiB and more are written from the caller's memory, smaller ones are copied behind their headers first. Another goroutine
// writes the state, removes segments and drops what expired; who has to drop the oldest frames removes their segments at once.
//
// # When things fail
//
// A write or a sync fails. All frames of the group are refused with the error's class. Nobody knows which pages the disk has, so
// the segment is cut back to where the last group ended, synced, and never written again. If cutting fails too, nothing more is
// accepted until it succeeds or all frames of that segment are done, since the refused frames are valid records as long as they
// are there. Only a crash during that time brings them back: they come as recovered frames although their callers were refused.
// After a failure Reserve refuses at once for 100 ms, then the next append tries the disk, or without one the queue itself after
// a second: so it goes on, and [Stats].Fault ends, when space returns.
//
// The process is killed or the power goes. Frames that were written and not acknowledged may or may not come. What is torn at
// the end of the last segment is cut when the directory is opened and counted as [Damage].Torn. A power loss may also spoil a
// frame of the last group and leave one behind it; that counts as a region, though nobody was told that the frame was kept.
// Opening again during all this is safe at any point: every step of recovery can be repeated.
//
// Frames come again that were done or dropped within the last CursorEvery, and those that were done behind one that was not, as far as
// their segments are there; the latter after an orderly end too. That is the bound on duplicates: CursorEvery of deliveries, and for
// every straggler what fits into its segment; each once an end. They carry the same sequence, and Recovered tells that they may be duplicates.
//
// The state file is lost or damaged in both slots. The segments' headers know the id; all frames come again. Where no header is
// readable either, Open fails and changes nothing.
//
// Bits flip. A frame that recovery cannot read was never counted as recovered and shows only as Damage, in bytes. A frame that
// recovery counted and Next then cannot read is in Dropped as [Damaged], and its bytes are in Damage as well. So the sum is exact
// in both cases, and Damage tells all that there was. A block that the disk refuses to read, or whose segment is gone, is tried for a
// minute, at the pace of who calls Next, and then given up in the same way.
//
// The directory is moved, or no more files can be opened. What is pending waits until it can be read again. Frames are accepted into
// the segment that is open, and refused when the next would begin.
//
// The clock is set. Ages run by the monotonic clock, from the frames' acceptance and not from the arrival that the caller gives,
// so a step changes nothing. Between two processes only the time of day goes on: when it was set back, the queue's time goes on
// from the latest moment found in the directory and no frame grows older while it was closed; when it was set forward, that
// cannot be told from a long pause.
//
// With [SyncOS] a power loss may take what the system had not written yet, from the middle of files too; killing the process
// takes nothing.
//
// # Tests
//
// crash_test.go puts the queue on a file system in memory that forgets any part of what was not synced and ends lives at random
// operations, those of recovery included; with failing disks; kill_test.go kills real processes. Seeds are printed, and
// TOLLGATE_SPOOL_SEED repeats one; TOLLGATE_SPOOL_CRASHES and TOLLGATE_SPOOL_KILLS set how often.
package spool
