package nbd_test

import (
	"bytes"
	"context"
	"dmps/client/devicetest"
	"encoding/binary"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dmps/client/nbd"
)

// request is one as the kernel sends it.
func request(command uint16, handle uint64, off int64, n int, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x25609513)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, handle)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return append(b, payload...)
}

// simple reads a simple reply without an error, and n bytes of data.
func simple(t *testing.T, nc net.Conn, handle uint64, n int) []byte {
	t.Helper()
	b := make([]byte, 16+n)
	if _, err := io.ReadFull(nc, b); err != nil {
		t.Fatal(err)
	}
	want := binary.BigEndian.AppendUint64([]byte{0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0}, handle)
	if !bytes.Equal(b[:16], want) {
		t.Fatalf("reply %x, not %x", b[:16], want)
	}
	return b[16:]
}

// serveKernel has dev served on a pair of sockets; over gets the end.
func serveKernel(ctx context.Context, t *testing.T, dev *devicetest.Device) (kernel net.Conn, over chan error) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(f); err != nil { // duplicates it
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = ends[0].Close() }) // most tests have closed it
	over = make(chan error, 1)
	go func() {
		over <- nbd.ServeTransmission(ctx, ends[1], nbd.Export{Device: dev}, nbd.Config{StallTimeout: -1})
	}()
	return ends[0], over
}

func send(t *testing.T, nc net.Conn, b []byte) {
	t.Helper()
	if _, err := nc.Write(b); err != nil {
		t.Fatal(err)
	}
}

// The kernel's connection begins with a request, and is answered simply. When
// the kernel closes it, it is over only after what was read from it: a late
// write must not land over one of the next connection.
func TestServeTransmission(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
	kernel, over := serveKernel(t.Context(), t, dev)
	page := fill(pageSize, 1)
	send(t, kernel, request(1, 7, pageSize, pageSize, page))
	simple(t, kernel, 7, 0)
	send(t, kernel, request(0, 8, pageSize, pageSize, nil))
	if got := simple(t, kernel, 8, pageSize); !bytes.Equal(got, page) {
		t.Error("what was read is not what was written")
	}

	dev.Pause(true)
	send(t, kernel, request(1, 9, 0, pageSize, page))
	dev.WaitFor(func(s devicetest.State) bool { return s.Waiting > 0 })
	if err := kernel.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-over:
		t.Fatalf("over (%v) with a write in flight", err)
	case <-time.After(50 * time.Millisecond): // too short a time misses a fault, and makes none up
	}
	dev.Pause(false)
	<-over // with an error or without: the reply found no taker
	dev.WaitFor(func(s devicetest.State) bool { return true })
	if !dev.Holds(0, page) {
		t.Error("the write that was read is not done")
	}
}

// When the client ends, what it has read is answered, and the rest is left for
// the next client: nothing fails.
func TestServeTransmissionEnds(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
	ctx, cancel := context.WithCancel(t.Context())
	kernel, over := serveKernel(ctx, t, dev)
	dev.Pause(true)
	send(t, kernel, request(1, 1, 0, pageSize, fill(pageSize, 1)))
	dev.WaitFor(func(s devicetest.State) bool { return s.Waiting > 0 })
	cancel()
	dev.Pause(false)
	simple(t, kernel, 1, 0)
	if n, err := kernel.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the last reply: %d bytes, %v", n, err)
	}
	if err := <-over; err != nil {
		t.Errorf("an end that was asked for: %v", err)
	}
}
