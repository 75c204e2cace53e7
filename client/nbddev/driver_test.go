package nbddev

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// fake is a kernel's end of a conversation.
type fake struct {
	got   []genetlink.Message
	flags []netlink.HeaderFlags
	reply []byte
	err   error
}

func (f *fake) Execute(m genetlink.Message, family uint16, flags netlink.HeaderFlags) ([]genetlink.Message, error) {
	f.got = append(f.got, m)
	f.flags = append(f.flags, flags)
	if f.err != nil || f.reply == nil {
		return nil, f.err
	}
	return []genetlink.Message{{Data: f.reply}}, nil
}

func (f *fake) Close() error { return nil }

// The bytes of a connect and a reconfigure, attribute by attribute: length and
// type of two bytes each, little endian, padded to four.
func TestCommands(t *testing.T) {
	c := Connection{Index: 3, Sockets: []int{7, 8}, Size: 1 << 30, BlockSize: 4096, Flags: 0x16d,
		Timeout: 1500 * time.Millisecond, DeadTimeout: time.Hour, Identifier: "dmps/v"}
	const (
		index   = "0800010003000000"
		size    = "0c0002000000004000000000"
		block   = "0c0003000010000000000000"
		server  = "0c0005006d01000000000000"
		client  = "0c0006000000000000000000"
		timeout = "0c0004000200000000000000" // rounded up
		dead    = "0c000800100e000000000000"
		id      = "0b000a00646d70732f760000" // with its zero byte
		sockets = "1c000780" + "0c000180" + "0800010007000000" + "0c000180" + "0800010008000000"
	)
	f := &fake{reply: mustHex(t, index)}
	d := &Driver{conn: f, family: 1}
	if n, err := d.Connect(c); n != 3 || err != nil {
		t.Errorf("connected to %d: %v", n, err)
	}
	f.reply = nil
	if err := d.Reconfigure(c); err != nil {
		t.Error(err)
	}
	if err := d.Disconnect(3); err != nil {
		t.Error(err)
	}
	for i, want := range []string{
		index + size + block + server + client + timeout + dead + id + sockets,
		index + timeout + dead + id + sockets,
		index,
	} {
		if got := hex.EncodeToString(f.got[i].Data); got != want {
			t.Errorf("command %d:\n got %s\nwant %s", f.got[i].Header.Command, got, want)
		}
	}
}

// A command that is answered must not be acknowledged too: the next one would
// take that for its answer. A client that came back could not reconnect.
func TestNoAnswerIsLeftOver(t *testing.T) {
	f := &fake{reply: mustHex(t, "0800010000000000")}
	d := &Driver{conn: f}
	if _, err := d.Connect(Connection{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Connected(0); err != nil {
		t.Fatal(err)
	}
	f.reply = nil
	if err := errors.Join(d.Reconfigure(Connection{}), d.Disconnect(0)); err != nil {
		t.Fatal(err)
	}
	for i, acknowledged := range []bool{false, false, true, true} {
		if f.flags[i]&netlink.Acknowledge != 0 != acknowledged {
			t.Errorf("command %d has flags %v", f.got[i].Header.Command, f.flags[i])
		}
	}
}

func TestConnectErrors(t *testing.T) {
	d := &Driver{conn: &fake{err: &netlink.OpError{Op: "receive", Err: unix.EBUSY}}}
	if _, err := d.Connect(Connection{}); !errors.Is(err, ErrBusy) {
		t.Errorf("a busy device: %v", err)
	}
	d.conn = &fake{}
	if _, err := d.Connect(Connection{Index: AnyIndex}); err == nil {
		t.Error("the kernel chose, said nothing, and it is known")
	}
}

func TestConnected(t *testing.T) {
	// NBD_ATTR_DEVICE_LIST with one item, as Linux sends it: index 2, connected.
	up := "18000900" + "14000100" + "0800010002000000" + "0500020001000000"
	for _, c := range []struct {
		reply string
		index int
		want  bool
	}{
		{up, 2, true}, {up, 1, false}, {strings.Replace(up, "0500020001", "0500020000", 1), 2, false}, {"04000900", 2, false},
	} {
		d := &Driver{conn: &fake{reply: mustHex(t, c.reply)}}
		if got, err := d.Connected(c.index); got != c.want || err != nil {
			t.Errorf("%s: device %d connected %v: %v", c.reply, c.index, got, err)
		}
	}
}

func FuzzDecodeStatus(f *testing.F) {
	f.Add([]byte{0x18, 0, 9, 0, 0x14, 0, 1, 0, 8, 0, 1, 0, 2, 0, 0, 0, 5, 0, 2, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeStatus(b) // no panic
		_, _, _ = decodeIndex(b)
	})
}

func TestParsePath(t *testing.T) {
	for path, want := range map[string]int{"nbd": AnyIndex, "/dev/nbd0": 0, "/dev/nbd15": 15, "/dev/nbd": -9, "/dev/sda": -9, "0": -9, "/dev/nbd0p1": -9} {
		got, err := ParsePath(path)
		if (err != nil) != (want == -9) || err == nil && got != want {
			t.Errorf("%s: %d, %v", path, got, err)
		}
	}
}

func mustHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A driver that is loaded and does not answer is not asked to be loaded.
func TestUnanswered(t *testing.T) {
	root := t.TempDir()
	if err := unanswered(root); !errors.Is(err, ErrNoDriver) || !strings.Contains(err.Error(), "modprobe") {
		t.Errorf("not loaded: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(root, "module", "nbd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unanswered(root); !errors.Is(err, ErrNoDriver) || !strings.Contains(err.Error(), "--network=host") {
		t.Errorf("in a container: %v", err)
	}
}
