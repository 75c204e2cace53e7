package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// required says that nothing may be skipped.
var required = os.Getenv("DMPS_E2E") == "1"

// dmpsBin is the program under test; empty: all tests are skipped.
var dmpsBin = os.Getenv("DMPS_BIN")

func TestMain(m *testing.M) {
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	if dmpsBin != "" && !filepath.IsAbs(dmpsBin) {
		fmt.Fprintf(os.Stderr, "DMPS_BIN=%s: must be an absolute path, tests run in their own folder\n", dmpsBin)
		return 1
	}
	if required && dmpsBin == "" {
		dir, err := os.MkdirTemp("", "dmps-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		dmpsBin = filepath.Join(dir, "dmps")
		cmd := exec.Command("go", "build", "-trimpath", "-o", dmpsBin, "dmps/cmd/dmps")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build dmps: %v\n%s", err, out)
			return 1
		}
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
