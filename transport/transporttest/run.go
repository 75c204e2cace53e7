package transporttest

import "testing"

// Run runs the suite.
func Run(t *testing.T, f Factory) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Medium)
	}{
		{"ReadWrite", testReadWrite},
		{"HeaderOnly", testHeaderOnly},
		{"Erase", testErase},
		{"HalfWritten", testHalfWritten},
		{"OutOfRange", testOutOfRange},
		{"OpenChunk", testOpenChunk},
		{"ReadHeaders", testReadHeaders},
		{"Checksum", testChecksum},
		{"Misdirected", testMisdirected},
		{"View", testView},
		{"LargestHeaders", testLargestHeaders},
		{"InPlace", testInPlace},
		{"Window", testWindow},
		{"Concurrent", testConcurrent},
		{"Idle", testIdle},
		{"DoneNotInsideSubmit", testDoneNotInside},
		{"Deadline", testDeadline},
		{"CloseInFlight", testCloseInFlight},
		{"AbortFromDone", testAbortFromDone},
		{"AfterClose", testAfterClose},
		{"Fence", testFence},
		{"FenceUnderLoad", testFenceUnderLoad},
		{"Reader", testReader},
		{"Handshake", testHandshake},
		{"Registration", testRegistration},
		{"Allocations", testAllocations},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, f(t)) })
	}
}
