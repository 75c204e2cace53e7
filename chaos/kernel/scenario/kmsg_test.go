package scenario

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKmsg: what is bad is kept, the rest is not, and a log that cannot be read
// on is bad too.
func TestKmsg(t *testing.T) {
	// It keeps records apart, as /dev/kmsg does.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w, r := os.NewFile(uintptr(fds[0]), "writer"), os.NewFile(uintptr(fds[1]), "log")
	defer r.Close() // read only
	for _, record := range []string{
		"6,339,5140900,-;nbd0: detected capacity change\n",
		"3,340,5140901,-;I/O error, dev nbd0, sector 8\n SUBSYSTEM=block\n",
		"6,341,5140902,-;nbd0: p1\n",
		"4,342,5140903,-;Memory cgroup out of memory: Killed process 7 (dmps)\n",
	} {
		if _, err := w.WriteString(record); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	k := new(kmsg)
	if err := k.err(); err != nil {
		t.Errorf("before anything: %v", err)
	}
	k.read(r)
	if len(k.lines) != 3 || k.lines[0] != "I/O error, dev nbd0, sector 8" || !strings.HasPrefix(k.lines[1], "Memory") ||
		!strings.HasPrefix(k.lines[2], "cannot be followed") {
		t.Errorf("kept: %q", k.lines)
	}
	if err := k.err(); err == nil {
		t.Error("nothing is bad")
	}
	k = new(kmsg)
	k.expect("I/O error")
	k.take("I/O error, dev nbd0, sector 8")
	if err := k.err(); err != nil {
		t.Errorf("what is expected: %v", err)
	}
	k.take("INFO: task hog blocked for more than 60 seconds")
	if err := k.err(); err == nil {
		t.Error("what is not expected is not bad")
	}
}
