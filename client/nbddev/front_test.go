package nbddev

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"dmps/client"
	"dmps/client/nbd"
	"dmps/internal/blockdev"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == blockdev.Command {
		calls := maps.Clone(Calls)
		maps.Copy(calls, blockdev.Calls)
		os.Exit(blockdev.ServeCall(calls, os.Args[2:], os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}

// stuck is a device that answers nothing until it is told to, and then with an
// error, as a volume that is closed.
type stuck struct {
	client.Device // what is not here is not asked for

	mu   sync.Mutex
	ops  []*client.Op
	got  chan struct{}
	idle func()
}

func (d *stuck) Size() int64            { return 1 << 20 }
func (d *stuck) Kick()                  {}
func (d *stuck) Free([]*client.Buf)     {}
func (d *stuck) OnIdle(f func()) func() { d.idle = f; return func() {} }
func (d *stuck) Submit(op *client.Op) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops = append(d.ops, op)
	close(d.got)
}

func (d *stuck) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, op := range d.ops {
		op.Err = client.ErrClosed
		op.Done(op)
	}
	d.idle()
}

// A client ends while a request waits in it for servers. The kernel must not be
// told that the request failed, though the volume's end fails it: a page would be
// lost to its process, which the next client could have brought.
func TestCloseTellsNoErrors(t *testing.T) {
	kernel, ours, err := Pair()
	if err != nil {
		t.Skip(err) // the send buffer needs a right that not everybody has
	}
	k, err := net.FileConn(kernel)
	if err := errors.Join(err, kernel.Close()); err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	dev := &stuck{got: make(chan struct{})}
	f := &Front{
		cfg: Config{Export: nbd.Export{Device: dev}}, log: slog.New(slog.DiscardHandler),
		conn: Connection{Index: 65535}, driver: &Driver{conn: &fake{}}, live: make(map[net.Conn]struct{}),
	}
	f.ctx, f.cancel = context.WithCancel(t.Context())
	f.served.Go(func() { f.keep(ours) })

	req := make([]byte, 28) // NBD_CMD_READ of 4096 bytes at 0
	binary.BigEndian.PutUint32(req, 0x25609513)
	binary.BigEndian.PutUint32(req[24:], 4096)
	if _, err := k.Write(req); err != nil {
		t.Fatal(err)
	}
	<-dev.got
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	kept, err := f.Close(ctx)
	if !kept {
		t.Error("a device of which nobody knows whether it is in use was taken away")
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request was in flight, and Close says %v", err)
	}
	dev.end()
	f.served.Wait()
	if b, err := io.ReadAll(k); len(b) > 0 || err != nil {
		t.Errorf("the kernel was told %x, %v", b, err)
	}
}
