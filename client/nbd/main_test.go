package nbd_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// One check of TestOracle is some thousand requests: 25 are a test, the
	// default of 100 is a soak. Say -rapid.checks for more.
	if err := flag.Set("rapid.checks", "25"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
