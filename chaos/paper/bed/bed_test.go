package bed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"dmps/chaos/kernel"
	"dmps/chaos/paper"
)

// TestRunRefuses: no figure runs on a machine that is no guest; this one.
func TestRunRefuses(t *testing.T) {
	if kernel.InGuest() == nil {
		t.Skip("this is a guest")
	}
	var out bytes.Buffer
	b := Bed{Dir: t.TempDir()}
	for _, figure := range paper.Figures {
		if err := b.Run(t.Context(), figure, NewReport(&out, figure)); !errors.Is(err, kernel.ErrNotInGuest) {
			t.Errorf("%s: %v", figure, err)
		}
	}
	if _, err := b.swap(device{path: "/nonexistent"}); !errors.Is(err, kernel.ErrNotInGuest) {
		t.Errorf("swap: %v", err)
	}
	if out.Len() > 0 {
		t.Errorf("it reported: %s", &out)
	}
}

// TestHandshake speaks to a server that does as the NBD protocol says, with and
// without the zeros that old servers send.
func TestHandshake(t *testing.T) {
	for _, flags := range []uint16{0b01, 0b11} {
		client, server := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- serveHandshake(server, flags) }()
		size, sent, err := handshake(client)
		if err != nil || size != 1<<30 || sent != 0x65 {
			t.Errorf("flags %b: size %d, flags %#x, %v", flags, size, sent, err)
		}
		// Nothing is left in the stream: what comes next is the transmission.
		if err := errors.Join(<-served, client.Close(), server.Close()); err != nil {
			t.Errorf("flags %b: server: %v", flags, err)
		}
	}
	client, server := net.Pipe()
	go func() {
		_, _ = server.Write([]byte("HTTP/1.1 400 no\r\n\r\n")) // the client judges
	}()
	if _, _, err := handshake(client); err == nil {
		t.Error("another protocol was taken for NBD")
	}
	if err := errors.Join(client.Close(), server.Close()); err != nil {
		t.Error(err)
	}
}

func serveHandshake(c net.Conn, flags uint16) error {
	if _, err := c.Write(binary.BigEndian.AppendUint16([]byte("NBDMAGICIHAVEOPT"), flags)); err != nil {
		return err
	}
	var ask [20]byte
	if _, err := io.ReadFull(c, ask[:]); err != nil {
		return err
	}
	want := binary.BigEndian.AppendUint32(nil, uint32(flags))
	want = append(want, "IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00"...)
	if !bytes.Equal(ask[:], want) {
		return errors.New("the client asked for something else than the default export")
	}
	reply := binary.BigEndian.AppendUint64(nil, 1<<30)
	reply = binary.BigEndian.AppendUint16(reply, 0x65)
	if flags&2 == 0 {
		reply = append(reply, make([]byte, 124)...)
	}
	_, err := c.Write(reply)
	return err
}

// TestDeviceClose: what was put up last is taken down first, and what fails does
// not keep the rest.
func TestDeviceClose(t *testing.T) {
	var order []int
	broken := errors.New("broken")
	d := device{undo: []func() error{
		func() error { order = append(order, 1); return nil },
		func() error { order = append(order, 2); return broken },
		func() error { order = append(order, 3); return nil },
	}}
	if err := d.close(); !errors.Is(err, broken) {
		t.Error(err)
	}
	if len(order) != 3 || order[0] != 3 || order[2] != 1 {
		t.Errorf("in the order %v", order)
	}
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(10 * time.Second)
		if !b.allows(100) {
			t.Fatal("nobody knows how long the first step takes")
		}
		time.Sleep(2 * time.Second)
		b.step()
		if !b.allows(3) || b.allows(4.5) {
			t.Error("8 s are left: three times 2 s fit, nine do not")
		}
		time.Sleep(5 * time.Second)
		b.step()
		if b.allows(1) {
			t.Error("5 s in 3 s")
		}
	})
}
