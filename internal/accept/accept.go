package accept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"dmps/internal/jitter"
)

// The pause after a failed accept(2), as in net/http: it doubles.
const (
	pauseFirst = 5 * time.Millisecond
	pauseMost  = time.Second
)

// waiting is how long a call of accept(2) lasts until it counts as one that waits
// for somebody, after one that failed. One that fails does so at once.
const waiting = 100 * time.Millisecond

// Listener is a net.Listener whose Accept fails only once it is closed.
type Listener struct {
	net.Listener
	log      *slog.Logger
	failures atomic.Uint64
	closed   chan struct{}
	once     sync.Once

	mu struct {
		sync.Mutex
		err   error     // of the last call; nil: it gave a connection
		began time.Time // the present call; zero: there is none
	}
}

// Listen binds an address: network is tcp or unix. A unix socket is its user's alone
// (mode 0600), and replaces one that nobody listens on. It gives a Listener, which the
// caller closes.
func Listen(ctx context.Context, network, address string, log *slog.Logger) (net.Listener, error) {
	var l net.Listener
	var err error
	if network == "unix" {
		l, err = listenUnix(ctx, address)
	} else {
		l, err = (&net.ListenConfig{}).Listen(ctx, network, address)
	}
	if err != nil {
		return nil, err
	}
	return Keep(l, log), nil
}

// Keep makes l one that outlives failures. A Listener it gives back as it is. It
// owns l; log nil is slog.Default.
func Keep(l net.Listener, log *slog.Logger) *Listener {
	if k, ok := l.(*Listener); ok {
		return k
	}
	if log == nil {
		log = slog.Default()
	}
	return &Listener{Listener: l, log: log, closed: make(chan struct{})}
}

// Accept implements net.Listener: it waits for a connection, whatever fails
// meanwhile. Its only error is net.ErrClosed, or one that wraps it.
func (l *Listener) Accept() (net.Conn, error) {
	pause, failed := pauseFirst, 0
	for {
		l.begin()
		c, err := l.Listener.Accept()
		if err == nil {
			l.ended(nil)
			if failed > 0 {
				l.log.Info("connections are accepted again", "addr", l.Addr().String(), "failures", failed)
			}
			return c, nil
		}
		select {
		case <-l.closed:
			return nil, net.ErrClosed
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, fmt.Errorf("accepting a connection: %w", err)
		}
		l.ended(err)
		l.failures.Add(1)
		if failed++; failed == 1 {
			l.log.Error("a connection could not be accepted: nobody new can reach this address until that passes", "addr", l.Addr().String(), "err", err)
		}
		select {
		case <-time.After(jitter.Around(pause)):
		case <-l.closed:
			return nil, net.ErrClosed
		}
		pause = min(2*pause, pauseMost)
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// Failures counts the calls of accept(2) that failed.
func (l *Listener) Failures() uint64 { return l.failures.Load() }

// Err says why nobody new gets in at the moment; nil: connections are accepted.
func (l *Listener) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.mu.began.IsZero() && time.Since(l.mu.began) > waiting {
		return nil // it waits for somebody
	}
	return l.mu.err
}

func (l *Listener) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.began = time.Now()
}

func (l *Listener) ended(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.began, l.mu.err = time.Time{}, err
}
