package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"dmps/internal/blockdev"
)

// roleVariable makes the test's own program dmps itself, so that the embedded
// cluster can start its roles from it.
const roleVariable = "DMPS_TEST_IS_DMPS"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" || len(os.Args) > 1 && os.Args[1] == blockdev.Command {
		main()
		return
	}
	os.Unsetenv(metaVariable)
	if os.Getenv(lockedHeapVariable) != "" {
		if err := loseHeap(); err != nil {
			fmt.Println(err)
		}
		return
	}
	goleak.VerifyTestMain(m,
		// Idle connections of http.DefaultClient, which status asks clients with.
		goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"),
		// signal.Notify starts it once, for ever.
		goleak.IgnoreTopFunction("os/signal.signal_recv"),
		goleak.IgnoreTopFunction("os/signal.loop"),
	)
}

// runCLI runs one command line in this process.
func runCLI(args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &out, err: &errOut}
	code = a.run(args)
	return code, out.String(), errOut.String()
}
