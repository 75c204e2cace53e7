package server

import (
	"context"
	"sync"
	"time"
)

// paceBurst is how much time of unused rate a pace keeps: what was late by a
// little is made up for.
const paceBurst = 50 * time.Millisecond

// pace is a token bucket.
type pace struct {
	rate int64 // bytes a second; 0: no limit

	mu struct {
		sync.Mutex
		next time.Time // when what was granted so far has been paid for
	}
}

// wait returns when n more bytes may be moved, in the order of the calls, or
// when ctx ends. Then they count as not moved.
func (p *pace) wait(ctx context.Context, n int) error {
	if p.rate == 0 {
		return ctx.Err()
	}
	cost := time.Duration(float64(n) / float64(p.rate) * float64(time.Second))
	now := time.Now()
	p.mu.Lock()
	if floor := now.Add(-paceBurst); p.mu.next.Before(floor) {
		p.mu.next = floor
	}
	at := p.mu.next
	p.mu.next = at.Add(cost)
	p.mu.Unlock()
	if d := at.Sub(now); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			p.mu.Lock()
			p.mu.next = p.mu.next.Add(-cost)
			p.mu.Unlock()
		}
	}
	return ctx.Err()
}
