//go:build nextlevel

package level

// Highest is one above what there is: tests build such a program to have a cluster of
// two versions (meta/state/mark_next.go). It is never released.
const Highest Level = 2
