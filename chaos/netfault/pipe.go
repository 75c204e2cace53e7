package netfault

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"dmps/chaos/plan"
)

const (
	pieceSize = 64 << 10
	pieces    = 64 // in a way at a time, 4 MiB; a way that is full stops the sender, as a network does
)

// pipe is one connection through a front.
type pipe struct {
	n        *Net
	from, to plan.Role
	near     *net.TCPConn // to who dialled
	far      *net.TCPConn // to who was dialled; nil until then
	done     chan struct{}
	once     sync.Once
	mu       sync.Mutex // guards far
}

// abort resets both connections, at once.
func (p *pipe) abort() {
	p.once.Do(func() { close(p.done) })
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range []*net.TCPConn{p.near, p.far} {
		if c != nil {
			_ = c.SetLinger(0) // then Close resets
			_ = c.Close()      // whoever used it sees the error
		}
	}
}

// piece is a part of a stream. The last one has no bytes.
type piece struct {
	b    []byte
	came time.Time
}

// serve passes on one connection until both ways have ended.
func (n *Net) serve(near *net.TCPConn, from, to plan.Role, address string) {
	p := &pipe{n: n, from: from, to: to, near: near, done: make(chan struct{})}
	n.mu.Lock()
	if n.mu.closed {
		n.mu.Unlock()
		p.abort()
		return
	}
	n.mu.pipes[p] = struct{}{}
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.mu.pipes, p)
		n.mu.Unlock()
		p.abort()
	}()
	// Nobody is told that nobody listens, while the answer could not come through.
	if !p.passes(from, to, 0, time.Time{}) {
		return
	}
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		p.passes(to, from, 0, time.Time{})
		return
	}
	p.mu.Lock()
	p.far = c.(*net.TCPConn)
	p.mu.Unlock()
	select {
	case <-p.done: // aborted meanwhile
		_ = c.Close()
		return
	default:
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.way(near, p.far, from, to) })
	wg.Go(func() { p.way(p.far, near, to, from) })
	wg.Wait()
}

// way passes on what comes from src to dst, as the weather allows.
func (p *pipe) way(src, dst *net.TCPConn, from, to plan.Role) {
	queue := make(chan piece, pieces)
	var wg sync.WaitGroup
	wg.Go(func() {
		for q := range queue {
			if !p.passes(from, to, len(q.b), q.came) {
				break
			}
			if len(q.b) == 0 {
				_ = dst.CloseWrite() // fails when dst is gone: then the other way ends too
				continue
			}
			if _, err := dst.Write(q.b); err != nil {
				p.passes(to, from, 0, time.Time{}) // the news has to come through
				p.abort()
				break
			}
		}
		for range queue { // let the reader end
		}
	})
	for {
		b := make([]byte, pieceSize)
		k, err := src.Read(b)
		if k > 0 {
			queue <- piece{b[:k], time.Now()}
		}
		if err == nil {
			continue
		}
		queue <- piece{nil, time.Now()}
		close(queue)
		wg.Wait()
		if !errors.Is(err, io.EOF) {
			p.abort() // it was reset, after what it had sent before
		}
		return
	}
}

// passes waits until a piece of k bytes that came at a time may go on; false:
// the pipe was aborted.
func (p *pipe) passes(from, to plan.Role, k int, came time.Time) bool {
	paid := false
	for {
		w, changed := p.n.weather(from, to)
		var wait time.Duration
		switch {
		case w.cut:
			wait = time.Hour
		case w.delay > 0 && time.Until(came.Add(w.delay)) > 0:
			wait = time.Until(came.Add(w.delay))
		case w.rate > 0 && k > 0 && !paid:
			wait = time.Duration(float64(k) / float64(w.rate) * float64(time.Second))
			paid = true
		default:
			return true
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-changed:
		case <-p.done:
			t.Stop()
			return false
		}
		t.Stop()
	}
}
