//go:build fabric && cgo

package fabric_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain runs the tests, or is the memory server of one (child_test.go).
func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		serveChild(spec)
		return
	}
	goleak.VerifyTestMain(m)
}
