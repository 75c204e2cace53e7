// Package devicetest is a [client.Device] in memory, for tests of front ends. It
// holds them to the contract: a bounded arena, completions late, out of order and
// on other goroutines, nothing before Kick, panics for a buffer freed twice,
// poison in what was freed, and a check at the end that everything came back.
//
// Read disk.go, then device.go, arena.go.
package devicetest
