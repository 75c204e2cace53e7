package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"dmps/transport"
)

const (
	// linkIdle is how long sessions with sources stay after the last rebuild:
	// the client's next request is on its way.
	linkIdle = 5 * time.Second
	// linkDial bounds a handshake with a source.
	linkDial = 2 * time.Second
	// pullDeadline bounds one read of at most 132 KiB from a source: a frozen
	// one is given up after that.
	pullDeadline = 5 * time.Second
)

// links are the sessions that the rebuilds of one owner session have with
// other servers, as readers under its lease. They end with it.
type links struct {
	s *session

	mu struct {
		sync.Mutex
		open   map[linkKey]*link
		users  int // rebuilds that run
		timer  *time.Timer
		closed bool
	}
}

type linkKey struct {
	addr        string
	incarnation uint64
}

// link is a session with a source.
type link struct {
	conn   transport.Conn
	credit chan struct{} // a token for each request in flight, at most the window
}

func (l *link) over() bool {
	select {
	case <-l.conn.Done():
		return true
	default:
		return false
	}
}

// use keeps the links open until leave.
func (l *links) use() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.users++
	if l.mu.timer != nil {
		l.mu.timer.Stop()
	}
}

func (l *links) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.users--; l.mu.users == 0 && !l.mu.closed {
		l.mu.timer = time.AfterFunc(linkIdle, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.mu.users == 0 {
				l.abortLocked()
			}
		})
	}
}

// close ends all links, without waiting, for good.
func (l *links) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.closed = true
	if l.mu.timer != nil {
		l.mu.timer.Stop()
	}
	l.abortLocked()
}

func (l *links) abortLocked() {
	for _, o := range l.mu.open {
		o.conn.Abort(transport.ErrClosed)
	}
	clear(l.mu.open)
}

// get returns the session with a source, made if there is none.
func (l *links) get(ctx context.Context, key linkKey) (*link, error) {
	l.mu.Lock()
	o := l.mu.open[key]
	l.mu.Unlock()
	if o != nil && !o.over() {
		return o, nil
	}
	ctx, cancel := context.WithTimeout(ctx, linkDial)
	defer cancel()
	h := l.s.hello
	h.Incarnation, h.Mode, h.Client = key.incarnation, transport.ModeReader, "rebuild at "+string(l.s.s.c.ID)
	h.Client, h.Rail = clip(h.Client), transport.Rail{}
	conn, w, err := l.s.s.c.Peers.Dial(ctx, key.addr, h, nil)
	if err != nil {
		return nil, fmt.Errorf("dialling a source: %w", err)
	}
	n := &link{conn: conn, credit: make(chan struct{}, w.Window)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		conn.Abort(transport.ErrClosed)
		return nil, transport.ErrClosed
	}
	if o := l.mu.open[key]; o != nil && !o.over() { // another rebuild was faster
		conn.Abort(transport.ErrClosed)
		return o, nil
	}
	if l.mu.open == nil {
		l.mu.open = make(map[linkKey]*link)
	}
	l.mu.open[key] = n
	return n, nil
}
