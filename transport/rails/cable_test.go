package rails_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// cable passes connections on to an address. It can be cut, which resets them,
// and frozen: then it passes nothing on, and nobody hears of it.
type cable struct {
	to string
	l  net.Listener
	wg sync.WaitGroup

	passed atomic.Int64 // bytes, both ways

	mu     sync.Mutex
	thaw   *sync.Cond
	frozen bool
	down   bool
	conns  map[net.Conn]struct{}
}

func newCable(t testing.TB, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &cable{to: to, l: l, conns: make(map[net.Conn]struct{})}
	k.thaw = sync.NewCond(&k.mu)
	k.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			k.wg.Go(func() { k.connect(in) })
		}
	})
	return k
}

func (k *cable) connect(in net.Conn) {
	out, err := net.Dial("tcp", k.to)
	if err != nil {
		in.Close()
		return
	}
	k.mu.Lock()
	if k.down {
		k.mu.Unlock()
		in.Close()
		out.Close()
		return
	}
	k.conns[in], k.conns[out] = struct{}{}, struct{}{}
	k.mu.Unlock()
	k.wg.Go(func() { k.pass(in, out) })
	k.pass(out, in)
}

func (k *cable) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		k.mu.Lock()
		for k.frozen {
			k.thaw.Wait()
		}
		k.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
			k.passed.Add(int64(n))
		}
		if err != nil {
			return
		}
	}
}

// cut resets all connections, and lets no others through before mend.
func (k *cable) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = true
	for c := range k.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	clear(k.conns)
}

func (k *cable) mend() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = false
}

func (k *cable) freeze(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.frozen = on
	k.thaw.Broadcast()
}

func (k *cable) close() {
	k.freeze(false)
	k.l.Close()
	k.cut()
	k.wg.Wait()
}
