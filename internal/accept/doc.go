// Package accept makes listeners that outlive a failed accept(2).
//
// Such a call fails when the process is out of descriptors or the host out of
// memory (EMFILE, ENFILE, ENOBUFS, ENOMEM). That passes, and a server that takes it
// for the end is deaf for good, although everything else of it goes on.
//
// Every listener of a role is made here; package repocheck sees to it.
package accept
