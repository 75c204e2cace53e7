//go:build !nextlevel

package level

// Highest is the highest level that this build knows: what a new cluster begins with.
const Highest Level = 1
