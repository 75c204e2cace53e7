//go:build race

package raid

// raceDetector is on: it makes slices escape that do not without it.
const raceDetector = true
