package netfault

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dmps/chaos/plan"
)

// Owners finds out which role has dialled: roles gives the processes now. A
// connection of nobody is of role "".
func Owners(roles func() map[int]plan.Role) func(remote, local *net.TCPAddr) plan.Role {
	return func(remote, local *net.TCPAddr) plan.Role {
		// Of a process that was started this moment the role may not be known yet.
		for range 10 {
			inode := inodeOf(remote, local)
			if inode == "" {
				return ""
			}
			for pid, role := range roles() {
				if holds(pid, inode) {
					return role
				}
			}
			if holds(os.Getpid(), inode) {
				return ""
			}
			time.Sleep(10 * time.Millisecond)
		}
		return ""
	}
}

// inodeOf is the inode of the socket whose own address is addr and whose peer is
// peer; "" if there is none.
func inodeOf(addr, peer *net.TCPAddr) string {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer f.Close()
	a, b := hexAddr(addr), hexAddr(peer)
	for s := bufio.NewScanner(f); s.Scan(); {
		w := strings.Fields(s.Text())
		if len(w) > 9 && w[1] == a && w[2] == b {
			return w[9]
		}
	}
	return ""
}

// hexAddr is an IPv4 address as /proc/net/tcp has it: the bytes of the address
// as a number of this machine.
func hexAddr(a *net.TCPAddr) string {
	var ip [4]byte
	copy(ip[:], a.IP.To4())
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), a.Port)
}

func holds(pid int, inode string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	want := "socket:[" + inode + "]"
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && to == want {
			return true
		}
	}
	return false
}
