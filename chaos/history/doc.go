// Package history records what clients did to a volume and checks that it is
// linearizable: that every page behaved as one register, whatever failed.
//
// The nouns: a Value names one write, and its page content says which page and
// write it is in every byte (page.go); an Op is what one request did to one
// page; a Recorder collects ops of many workers; Check judges them; a Violation
// is what it found, cut down to what matters.
//
// What is checked, page by page: there is an order of all operations that fits
// the times at which they were called and returned, and in which every read
// returns what was written last before it. A write or trim of unknown outcome
// (its connection broke, or it failed) may have taken effect at any time after it
// was called, or never. Reads that failed say nothing.
//
// What is not: an order across pages, which a block device does not promise;
// that anything is durable beyond what was read; pages that nobody read.
//
// Who decides is porcupine. Three thoughts before it keep histories of millions of
// operations cheap: a write of unknown outcome whose value nobody read can be
// left out, and one whose value was read happened before that read returned
// (check.go); most wrong reads can be seen by looking at two writes at a time
// (quick.go); and a page rests now and then, so that a search is over what lies
// between two rests (walk.go).
//
// Read in this order: page.go, op.go, recorder.go, check.go, quick.go, walk.go,
// report.go, file.go.
package history
