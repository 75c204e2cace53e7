// Package mem is a medium inside one process, for tests: the same contract and
// the same Backend as package tcp, no sockets, and faults on demand. It runs
// inside testing/synctest bubbles: everything waits on channels and timers.
//
// A [Network] holds [Host]s by address; a Host stands before a Backend and has
// the faults: Stall, Delay, DropReplies, Disconnect.
package mem
