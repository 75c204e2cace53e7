package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
)

// Ports are chosen below the range that the kernel takes the ports of outgoing
// connections from: a role that was killed must find its port free when it is
// started again, and no outgoing connection may sit on it by then.
const (
	firstPort       = 12000
	ephemeralFile   = "/proc/sys/net/ipv4/ip_local_port_range"
	ephemeralUsual  = 32768
	portTriesFactor = 200 // tries a port wanted, before it is called hopeless
)

// FreePorts picks n ports of 127.0.0.1 that nobody listens on. Another program
// can still take one before its role listens; then that role exits with
// exitcode.CannotListen and Start tries again with other ports.
func FreePorts(n int) ([]int, error) {
	last := ephemeralUsual
	if b, err := os.ReadFile(ephemeralFile); err == nil {
		if f := strings.Fields(string(b)); len(f) == 2 {
			if v, err := strconv.Atoi(f[0]); err == nil && v > firstPort+n*10 {
				last = v
			}
		}
	}
	seen := map[int]bool{}
	var ports []int
	for range n * portTriesFactor {
		if len(ports) == n {
			return ports, nil
		}
		p := firstPort + rand.IntN(last-firstPort)
		if seen[p] {
			continue
		}
		seen[p] = true
		l, err := net.Listen("tcp", loopback(p))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("cluster: releasing port %d: %w", p, err)
		}
		ports = append(ports, p)
	}
	if len(ports) == n {
		return ports, nil
	}
	return nil, fmt.Errorf("cluster: %w", errNoPorts)
}

var errNoPorts = errors.New("no free ports on 127.0.0.1")

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
