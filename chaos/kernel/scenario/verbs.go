package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// fabricTest is the tests of package transport/fabric, and rdmaEnv where they
// and the scenarios find the address of the RDMA device (kernel.RDMAEnv).
const (
	fabricTest = "/bin/fabric.test"
	rdmaEnv    = "DMPS_FABRIC_VERBS"
)

// over is the scheme with servers that have one-sided transfers by a provider.
func (s scheme) over(provider string) scheme {
	s.provider = provider
	return s
}

// listen are the arguments with which a server listens on a port.
func (s scheme) listen(port int) []string {
	if s.provider == "" {
		return []string{"--listen", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	}
	at := net.JoinHostPort(os.Getenv(rdmaEnv), strconv.Itoa(port))
	return []string{"--listen", "fabric+" + s.provider + "://" + at, "--insecure-network"}
}

// carried is nil when every server's session is of the scheme's provider, and
// none fell back to TCP: what swapped then was one-sided.
func (c *cluster) carried(ctx context.Context) error {
	if c.scheme.provider == "" {
		return nil
	}
	return until(ctx, time.Minute, "sessions over "+c.scheme.provider, func() error {
		st, err := c.status(ctx)
		if err != nil {
			return err
		}
		k := st.Report.Counters
		carrier := "sessions_fabric_" + c.scheme.provider
		if k[carrier] != int64(c.scheme.servers) || k["sessions_tcp"] != 0 {
			return fmt.Errorf("%s is %d, with %d servers, and sessions_tcp %d", carrier, k[carrier], c.scheme.servers, k["sessions_tcp"])
		}
		return nil
	})
}

// conformance runs the tests of transport/fabric over verbs. That they are
// skipped where there is no device cannot be: the variable is set. TestDrain is
// of tcp, and has a limit of time that an emulated machine does not keep.
func conformance(ctx context.Context, _ *Guest) error {
	if os.Getenv(rdmaEnv) == "" {
		return errors.New("no RDMA device: " + rdmaEnv + " is not set")
	}
	cmd := exec.CommandContext(ctx, fabricTest, "-test.run", "/verbs", "-test.skip", "^TestDrain$", "-test.v")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the tests of transport/fabric over verbs: %w", err)
	}
	return nil
}
