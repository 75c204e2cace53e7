// Package e2e tests the dmps program from outside: real processes, real
// NBD clients, real signals. It has no code of its own but tests.
//
// The tests know dmps by what is documented: its command line, cluster.json of
// `dmps dev`, exit codes, NBD. So they hold for any implementation behind it.
//
//	make e2e                             # as CI does
//	DMPS_E2E=1 go test ./chaos/e2e/...   # the same without make: builds the program itself
//
// Without DMPS_E2E=1, and without DMPS_BIN naming the program, all tests are
// skipped: they take minutes. With DMPS_BIN alone, those are skipped whose
// tools are not installed; with DMPS_E2E=1 a missing tool is a failure.
//
// Every test starts a cluster of its own in a temporary folder, has a time
// limit, and prints the ends of all logs when it fails. Nothing outlives a test.
//
// The folders below: rig starts and breaks processes, ledger finds stale and
// damaged data under load.
package e2e
