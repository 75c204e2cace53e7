package mem

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"dmps/transport"
)

// one is a Backend of one slot that has no header.
type one struct{ page []byte }

func (o *one) Open(context.Context, transport.Hello, func(error)) (transport.Session, transport.Welcome, error) {
	return o, transport.Welcome{Server: "one", Window: 4}, nil
}
func (o *one) OpenChunk(uint64, transport.ChunkSpec) error       { return transport.ErrNoMemory }
func (o *one) BeginWrite(io *transport.SlotIO) error             { io.Mem = append(io.Mem, o.page); return nil }
func (o *one) CommitWrite(*transport.SlotIO) error               { return nil }
func (o *one) AbortWrite(*transport.SlotIO)                      {}
func (o *one) BeginRead(io *transport.SlotIO) error              { io.Mem = append(io.Mem, o.page); return nil }
func (o *one) BeginReadHeaders(io *transport.SlotIO) (err error) { return transport.ErrNoChunk }
func (o *one) EndRead(*transport.SlotIO)                         {}
func (o *one) Rebuild(context.Context, *transport.RebuildSpec) (transport.RebuildResult, error) {
	return transport.RebuildResult{}, transport.ErrRefused
}
func (o *one) Close() {}

// rig runs f in a bubble, with a network of one host.
func rig(t *testing.T, f func(t *testing.T, h *Host, dial func() transport.Conn, start func(transport.Conn, transport.Op, time.Duration) *transport.Request)) {
	synctest.Test(t, func(t *testing.T) {
		var n Network
		h := n.Serve("a", &one{make([]byte, transport.PageSize)})
		d := n.Dialer()
		mem := make([]byte, 64<<10)
		if err := d.Register(mem); err != nil {
			t.Fatal(err)
		}
		dial := func() transport.Conn {
			c, _, err := d.Dial(t.Context(), "a", transport.Hello{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		f(t, h, dial, func(c transport.Conn, op transport.Op, limit time.Duration) *transport.Request {
			q := &transport.Request{Op: op, Segs: []transport.Seg{{Header: mem[:1:1], Page: mem[4096:8192]}}, Err: errPending}
			mem = mem[8192:]
			if limit > 0 {
				q.Deadline = time.Now().Add(limit)
			}
			ended := make(chan time.Time, 1)
			q.User = ended
			q.Done = func(*transport.Request) {
				select {
				case ended <- time.Now():
				default:
					t.Error("completed twice")
				}
			}
			if err := c.Submit(q); err != nil {
				t.Fatal(err)
			}
			c.Kick()
			return q
		})
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		h.Close()
	})
}

// ended gets the time when q completes.
func ended(q *transport.Request) chan time.Time { return q.User.(chan time.Time) }

var errPending = errors.New("pending")

func TestFaults(t *testing.T) {
	rig(t, func(t *testing.T, h *Host, dial func() transport.Conn, start func(transport.Conn, transport.Op, time.Duration) *transport.Request) {
		c := dial()
		began := time.Now()
		h.Delay(50 * time.Millisecond)
		q := start(c, transport.OpRead, time.Second)
		synctest.Wait()
		if len(ended(q)) != 0 {
			t.Error("answered without delay")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if d := (<-ended(q)).Sub(began); q.Err != nil || d != 50*time.Millisecond {
			t.Errorf("delayed request: %v at %v", q.Err, d)
		}
		h.Delay(0)
		h.Stall(true)
		q = start(c, transport.OpWrite, 0)
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(ended(q)) != 0 {
			t.Error("answered while stalled")
		}
		h.Stall(false)
		synctest.Wait()
		if len(ended(q)) == 0 || q.Err != nil {
			t.Errorf("after the stall: %v", q.Err)
		}
		h.DropReplies(1)
		began = time.Now()
		q = start(c, transport.OpWrite, time.Minute)
		p := start(c, transport.OpRead, time.Hour)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if d := (<-ended(q)).Sub(began); q.Err != transport.ErrDeadline || d != time.Minute {
			t.Errorf("dropped reply: %v at %v", q.Err, d)
		}
		if p.Err != nil {
			t.Errorf("the one after it: %v", p.Err)
		}
		<-c.Done()
		synctest.Wait()
		c = dial()
		h.Stall(true)
		q = start(c, transport.OpRead, 0)
		h.Disconnect()
		<-c.Done()
		synctest.Wait()
		if q.Err != transport.ErrClosed || !errors.Is(c.Err(), errReset) {
			t.Errorf("disconnected: %v, %v", q.Err, c.Err())
		}
		h.Stall(false)
		if err := dial().OpenChunk(t.Context(), 1, transport.ChunkSpec{}); !errors.Is(err, transport.ErrNoMemory) {
			t.Error(err)
		}
	})
}

func TestDown(t *testing.T) {
	rig(t, func(t *testing.T, h *Host, dial func() transport.Conn, _ func(transport.Conn, transport.Op, time.Duration) *transport.Request) {
		c := dial()
		h.Down(true)
		<-c.Done()
		synctest.Wait()
		d := c.(*conn).d
		if _, _, err := d.Dial(t.Context(), "a", transport.Hello{}, nil); err == nil {
			t.Error("dialled a host that is down")
		}
		h.Down(false)
		h.Stall(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := d.Dial(ctx, "a", transport.Hello{}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dialled a frozen host: %v", err)
		}
		h.Stall(false)
		dial()
	})
}
