// Package transporttest is the conformance suite of package transport: every
// medium passes [Run], before the same Backend.
package transporttest
