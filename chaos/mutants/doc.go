// Command mutants puts faults into the code, one at a time, and runs the tests that
// have to notice.
//
// Each fault is a patch in testdata, named for what it breaks, with lines before the
// diff:
//
//	# fault: what is wrong, in words
//	# kill: ./raid -run ^TestX$
//	# hangs: the tests may wait for ever because of it
//	# survives: why no test can notice it
//
// The old lines of a patch have to be in the file as they are; where is not
// important. The tree is not changed: go test takes the changed file from elsewhere.
// Before a fault is tried its tests have to pass without it.
//
// A fault that nothing notices fails the run, unless its patch says why nothing can;
// then a test that notices fails the run.
package main
