//go:build !race

package raid

const raceDetector = false
