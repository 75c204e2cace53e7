// Package pace bounds how fast bytes are moved: rebuilds and scrubs, in clients and
// memory servers.
package pace

import (
	"context"
	"sync"
	"time"
)

// burst is how much time of unused rate a Pace keeps: what was late by a little is
// made up for.
const burst = 50 * time.Millisecond

// Pace is a token bucket whose rate may change while somebody waits. The zero value has
// no limit. Its methods may be called by several goroutines.
type Pace struct {
	mu struct {
		sync.Mutex
		rate    float64       // bytes a second; 0: no limit
		next    time.Time     // when what was taken so far has been paid for
		changed chan struct{} // closed when rate changes; nil: nobody waits
	}
}

// Set changes the rate, in bytes a second; 0 is no limit. What is owed stays owed in bytes.
func (p *Pace) Set(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rate == p.mu.rate {
		return
	}
	now := time.Now()
	switch owed := p.mu.next.Sub(now); {
	case rate == 0 || owed <= 0:
		p.mu.next = now
	case p.mu.rate > 0:
		p.mu.next = now.Add(time.Duration(float64(owed) * p.mu.rate / rate))
	}
	p.mu.rate = rate
	if p.mu.changed != nil {
		close(p.mu.changed)
		p.mu.changed = nil
	}
}

// Rate is the limit in bytes a second; 0: none.
func (p *Pace) Rate() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.rate
}

// Take waits until n bytes may be moved and takes them, in the order of the
// calls. It gives what it took: n, or 0 when there is no limit. It fails only
// when ctx ends first; then nothing was taken.
func (p *Pace) Take(ctx context.Context, n int64) (int64, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		p.mu.Lock()
		if p.mu.rate == 0 {
			p.mu.Unlock()
			return 0, nil
		}
		now := time.Now()
		if floor := now.Add(-burst); p.mu.next.Before(floor) {
			p.mu.next = floor
		}
		wait := p.mu.next.Sub(now)
		p.mu.next = p.mu.next.Add(bytesTime(n, p.mu.rate))
		if p.mu.changed == nil {
			p.mu.changed = make(chan struct{})
		}
		changed := p.mu.changed
		p.mu.Unlock()
		if wait <= 0 {
			return n, nil
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			return n, nil
		case <-changed:
			// Wait anew, at the new rate.
			t.Stop()
			p.Correct(-n)
		case <-ctx.Done():
			t.Stop()
			p.Correct(-n)
			return 0, ctx.Err()
		}
	}
}

// Correct counts n bytes that were moved and not taken; negative: taken and
// not moved.
func (p *Pace) Correct(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.rate > 0 {
		p.mu.next = p.mu.next.Add(bytesTime(n, p.mu.rate))
	}
}

func bytesTime(n int64, rate float64) time.Duration {
	return time.Duration(float64(n) / rate * float64(time.Second))
}
