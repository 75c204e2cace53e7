//go:build race

package inproc

// raceDetector is on: it allocates for itself, and makes sync.Pool forget.
const raceDetector = true
