package inproc

import (
	"errors"
	"io"
	"net"
	"sync"
)

// Holder is a proxy before a server that can hold back what clients send, like
// a client that is stopped in the middle of a batch, or a slow network: nothing
// is lost, and all of it arrives when it is let go.
type Holder struct {
	l    net.Listener
	to   string
	gate sync.RWMutex // held for writing while traffic is held back
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Hold starts a proxy before the server at addr, tcp://host:port.
func Hold(addr string) (*Holder, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &Holder{l: l, to: addr[len("tcp://"):], conns: map[net.Conn]struct{}{}}
	h.wg.Go(h.accept)
	return h, nil
}

// Addr is where clients connect to instead.
func (h *Holder) Addr() string { return "tcp://" + h.l.Addr().String() }

// Stop holds back what clients send from now on. Go lets it go.
func (h *Holder) Stop() { h.gate.Lock() }

// Go lets go what was held back.
func (h *Holder) Go() { h.gate.Unlock() }

// Close cuts all connections. Nothing may be held back.
func (h *Holder) Close() error {
	err := h.l.Close()
	h.mu.Lock()
	for c := range h.conns {
		c.Close() // to break it is the purpose
	}
	h.mu.Unlock()
	h.wg.Wait()
	return err
}

func (h *Holder) accept() {
	for {
		c, err := h.l.Accept()
		if err != nil {
			return // closed
		}
		s, err := net.Dial("tcp", h.to)
		if err != nil {
			c.Close()
			continue
		}
		h.mu.Lock()
		h.conns[c], h.conns[s] = struct{}{}, struct{}{}
		h.mu.Unlock()
		end := func() {
			c.Close()
			s.Close()
		}
		h.wg.Go(func() {
			defer end()
			h.copyHeld(s, c)
		})
		h.wg.Go(func() {
			defer end()
			_, _ = io.Copy(c, s) // ends when either side does
		})
	}
}

// copyHeld copies until either side ends, and waits at the gate.
func (h *Holder) copyHeld(to io.Writer, from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		h.gate.RLock()
		_, werr := to.Write(buf[:n])
		h.gate.RUnlock()
		if errors.Join(err, werr) != nil {
			return
		}
	}
}
