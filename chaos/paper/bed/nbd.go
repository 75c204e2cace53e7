package bed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/Merovius/nbd/nbdnl"
)

// kernelNBD makes an NBD server a block device: /dev/nbdINDEX, one connection.
// Nobody but a measurement attaches like this: there is no second connection
// and no new one when it breaks.
func kernelNBD(ctx context.Context, index uint32, network, address string) (path string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("attaching nbd%d: %w", index, err) }
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, c.Close()) }() // the kernel has its own reference
	size, flags, err := handshake(c)
	if err != nil {
		return fail(fmt.Errorf("negotiating: %w", err))
	}
	f, err := c.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := nbdnl.Connect(index, []*os.File{f}, size, 0, nbdnl.ServerFlags(flags), nbdnl.WithBlockSize(4096), nbdnl.WithTimeout(60*time.Second)); err != nil {
		return fail(err)
	}
	return fmt.Sprintf("/dev/nbd%d", index), nil
}

// handshake takes the default export in the way of NBD_OPT_EXPORT_NAME (NBD
// protocol, doc/proto.md), and returns its size and transmission flags.
func handshake(c net.Conn) (size uint64, flags uint16, err error) {
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, 0, err
	}
	var hello [18]byte
	if _, err := io.ReadFull(c, hello[:]); err != nil {
		return 0, 0, err
	}
	if string(hello[:16]) != "NBDMAGICIHAVEOPT" {
		return 0, 0, fmt.Errorf("a greeting of %q", hello[:16])
	}
	const fixedNewstyle, noZeroes, exportName = 1, 2, 1
	var ask [20]byte
	server := binary.BigEndian.Uint16(hello[16:])
	binary.BigEndian.PutUint32(ask[:], uint32(server&(fixedNewstyle|noZeroes)))
	copy(ask[4:], "IHAVEOPT")
	binary.BigEndian.PutUint32(ask[12:], exportName)
	if _, err := c.Write(ask[:]); err != nil {
		return 0, 0, err
	}
	reply := make([]byte, 10)
	if server&noZeroes == 0 {
		reply = make([]byte, 134)
	}
	if _, err := io.ReadFull(c, reply); err != nil {
		return 0, 0, err
	}
	return binary.BigEndian.Uint64(reply), binary.BigEndian.Uint16(reply[8:]), c.SetDeadline(time.Time{})
}

// queue sets how the kernel uses an NBD device: what dmps needs to be safe (few
// requests in flight, no larger than 128 KiB, no scheduler), and so that it is
// compared fairly the plain server gets the same.
func queue(path string) error {
	dir := filepath.Join("/sys/class/block", filepath.Base(path), "queue")
	return errors.Join(
		setting(filepath.Join(dir, "scheduler"), "none"),
		setting(filepath.Join(dir, "nr_requests"), "16"),
		setting(filepath.Join(dir, "max_sectors_kb"), "128"),
	)
}
