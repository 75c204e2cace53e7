// Package fabric carries sessions over libfabric: one-sided reads and writes of
// the server's memory.
package fabric
