package netfault

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"dmps/chaos/plan"
)

// Net is a set of fronts. Its methods may be called from any goroutine.
type Net struct {
	who func(remote, local *net.TCPAddr) plan.Role // who dialled; "": nobody that a plan names
	wg  sync.WaitGroup

	mu struct {
		sync.Mutex
		closed  bool
		broken  []*plan.Fault // by identity: one may be there twice
		changed chan struct{} // closed and replaced when broken changes
		fronts  []net.Listener
		pipes   map[*pipe]struct{}
	}
}

// New makes a Net. who tells which role has dialled from remote to local, for
// fronts that are not for one role; it may be nil if there are none.
func New(who func(remote, local *net.TCPAddr) plan.Role) *Net {
	n := &Net{who: who}
	n.mu.changed = make(chan struct{})
	n.mu.pipes = map[*pipe]struct{}{}
	return n
}

// Front listens on loopback and passes every connection on to address, which is
// of role to. from is who will dial; "" asks who. It gives host:port.
func (n *Net) Front(from, to plan.Role, address string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("proxy before %s: %w", to, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.closed {
		return "", errors.Join(fmt.Errorf("proxy before %s: %w", to, net.ErrClosed), l.Close())
	}
	n.mu.fronts = append(n.mu.fronts, l)
	n.wg.Go(func() { n.accept(l, from, to, address) })
	return l.Addr().String(), nil
}

func (n *Net) accept(l net.Listener, from, to plan.Role, address string) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors, or the peer is gone again
			continue
		}
		n.wg.Go(func() {
			who := from
			if who == "" && n.who != nil {
				who = n.who(c.RemoteAddr().(*net.TCPAddr), c.LocalAddr().(*net.TCPAddr))
			}
			n.serve(c.(*net.TCPConn), who, to, address)
		})
	}
}

// Break applies a fault of a link, and gives what undoes it, which may be called
// more than once. A Reset is over when Break returns.
func (n *Net) Break(f plan.Fault) (mend func(), err error) {
	if !f.Kind.OnLink() {
		return nil, fmt.Errorf("%v is no fault of a link", f)
	}
	if f.Kind == plan.Reset {
		n.reset(f.Link)
		return func() {}, nil
	}
	p := &f
	n.change(func() { n.mu.broken = append(n.mu.broken, p) })
	return func() {
		n.change(func() {
			n.mu.broken = slices.DeleteFunc(n.mu.broken, func(q *plan.Fault) bool { return q == p })
		})
	}, nil
}

func (n *Net) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.mu.changed)
	n.mu.changed = make(chan struct{})
}

func (n *Net) reset(l plan.Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.mu.pipes {
		if l.Has(p.from, p.to) || l.Has(p.to, p.from) {
			p.abort()
		}
	}
}

// weather is what a way has to cope with.
type weather struct {
	cut   bool
	delay time.Duration
	rate  int64 // bytes a second; 0: no limit
}

// weather of the way between two roles now, and what is closed when it changes.
func (n *Net) weather(from, to plan.Role) (w weather, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.mu.broken {
		if !f.Link.Has(from, to) {
			continue
		}
		switch f.Kind {
		case plan.Cut:
			w.cut = true
		case plan.Delay:
			w.delay += f.By
		case plan.Throttle:
			if w.rate == 0 || f.Rate < w.rate {
				w.rate = f.Rate
			}
		}
	}
	return w, n.mu.changed
}

// Close ends all connections and waits for them.
func (n *Net) Close() error {
	n.mu.Lock()
	n.mu.closed = true
	var errs []error
	for _, l := range n.mu.fronts {
		errs = append(errs, l.Close())
	}
	n.mu.fronts = nil
	for p := range n.mu.pipes {
		p.abort()
	}
	n.mu.Unlock()
	n.wg.Wait()
	return errors.Join(errs...)
}
