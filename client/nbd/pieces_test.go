package nbd_test

import (
	"bytes"
	"testing"

	"dmps/client"
	"dmps/client/devicetest"
	"dmps/client/nbd"
	"dmps/client/nbd/nbdtest"
)

// Of a request that is done piece by piece nothing is done any more when a piece has
// failed, and its error is the answer.
func TestPiecesEndWithTheFirstError(t *testing.T) {
	const size = 96 << 20 // three pieces
	dev := devicetest.New(t, devicetest.NewDisk(size), 2*client.MaxOpPages, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev)})
	c := connect(t, uri, nbdtest.Options{})
	last := fill(pageSize, 3)
	ok(t, c.Do(nbdtest.Write, 0, 64<<20, pageSize, last))
	dev.SetFault(func(op *client.Op) error {
		if op.Off < 32<<20 {
			return client.ErrLost
		}
		return nil
	})
	for _, cmd := range []uint16{nbdtest.Trim, nbdtest.WriteZeroes} {
		if r := c.Do(cmd, 0, 0, size, nil); r.Errno != eio {
			t.Errorf("command %d whose first piece fails: errno %d", cmd, r.Errno)
		}
	}
	if !dev.Holds(64<<20, last) {
		t.Error("a later piece is done")
	}
}

// shortDevice leaves out the last page of what it reads.
type shortDevice struct{ *devicetest.Device }

func (d shortDevice) Submit(op *client.Op) {
	if op.Kind == client.OpRead && op.Len > pageSize {
		done := op.Done
		op.Done = func(op *client.Op) {
			op.Done = done
			last := len(op.Bufs) - 1
			d.Free(op.Bufs[last:])
			op.Bufs = op.Bufs[:last]
			done(op)
		}
	}
	d.Device.Submit(op)
}

// A device that reads too little has failed: what is missing is not made up.
func TestShortReadIsAnError(t *testing.T) {
	variants(t, func(t *testing.T, o nbdtest.Options) {
		dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
		_, uri := serve(t, nbd.Config{Exports: map[string]nbd.Export{"": {Device: shortDevice{dev}}}})
		c := connect(t, uri, o)
		data := fill(3*pageSize, 1)
		ok(t, c.Do(nbdtest.Write, 0, 0, 3*pageSize, data))
		if r := c.Do(nbdtest.Read, 0, 0, 3*pageSize, nil); r.Errno != eio {
			t.Errorf("errno %d, %v", r.Errno, r.Err)
		}
		if r := ok(t, c.Do(nbdtest.Read, 0, 0, pageSize, nil)); !bytes.Equal(r.Data, data[:pageSize]) {
			t.Error("one page reads as something else")
		}
	})
}

// What a client sends after it has disconnected is not carried out, or answered.
func TestNothingAfterDisconnect(t *testing.T) {
	dev := devicetest.New(t, devicetest.NewDisk(1<<20), 64, false)
	_, uri := serve(t, nbd.Config{Exports: exports(dev)})
	c, err := nbdtest.Connect(uri, nbdtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	before := fill(pageSize, 1)
	ok(t, c.Do(nbdtest.Write, 0, 0, pageSize, before))
	if _, err := c.Conn.Write(nbdtest.Request(nil, nbdtest.Disconnect, 0, 0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	// Whether it is sent at all depends on how soon the server has closed.
	if r := c.Do(nbdtest.Write, 0, 0, pageSize, fill(pageSize, 2)); r.Err == nil {
		t.Errorf("answered: errno %d", r.Errno)
	}
	if err := c.Abandon(); err != nil {
		t.Logf("closing: %v", err)
	}
	dev.WaitFor(func(s devicetest.State) bool { return s.OnIdle == 0 && s.FreePages == 64 })
	if !dev.Holds(0, before) {
		t.Error("carried out")
	}
}
