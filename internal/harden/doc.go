// Package harden makes a process one that the kernel can wait for while it
// writes memory out.
//
// Whoever serves a block device to the kernel of its own machine can be asked
// to take pages because memory is short, and must not need memory to do it.
// Locked memory (package memlock) is the first half. This is the other:
//
//   - PR_SET_IO_FLUSHER: allocations that the kernel makes for this process do
//     no I/O of their own to find room. They would wait for this very process.
//     prctl(2), Linux 5.6.
//   - SCHED_RR: what the machine waits for does not wait for a turn behind those
//     who wait. Not SCHED_FIFO: a thread of Go's runtime can spin for what another
//     has to finish (bgsweep, while anybody else still sweeps), and a FIFO thread
//     that spins is never made to give way. As many such processes as there are
//     processors, and all of them wait for good.
//   - oom_score_adj -1000: the OOM killer would free some megabytes, and take
//     the swap space of everybody with it. proc(5).
//   - a cgroup that has no swap (memory.swap.max): what cannot be locked, such
//     as page tables' owners and buffers, is not charged to something that
//     swaps. Documentation/admin-guide/cgroup-v2.rst. What a process has before it
//     goes there stays charged to where it came from and can be swapped out, so the
//     program is executed in it.
//
// The first two belong to threads and are inherited, and Go starts threads
// before main does. So Self sets them on one thread and executes the program
// again from there: all threads of the new one have them. Check verifies it.
package harden
