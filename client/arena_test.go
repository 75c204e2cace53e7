package client

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func testPool(t *testing.T, n int) *pool {
	t.Helper()
	a, err := newArena(n, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.close() })
	return a.pool(n)
}

func TestPoolServesInOrder(t *testing.T) {
	p := testPool(t, 8)
	all, ok := p.tryGet(8, nil)
	if !ok {
		t.Fatal("a full pool has no buffers")
	}
	var order []int
	for i, n := range []int{6, 1} {
		w := &waiter{n: n, granted: func(w *waiter) { order = append(order, i) }}
		if err := p.wait(w); err != nil {
			t.Fatal(err)
		}
	}
	p.put(all[:2])
	if len(order) != 0 {
		t.Fatalf("served %v: the second waiter overtook the first", order)
	}
	p.put(all[2:])
	if len(order) != 2 || order[0] != 0 || order[1] != 1 {
		t.Fatalf("served %v, want 0 then 1", order)
	}
	if n := p.available(); n != 1 {
		t.Fatalf("%d buffers left, want 1", n)
	}
}

func TestPoolGivesUp(t *testing.T) {
	p := testPool(t, 4)
	held, _ := p.tryGet(3, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := p.get(ctx, 2, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("get with too few buffers: %v", err)
	}
	if _, ok := p.tryGet(1, nil); !ok {
		t.Fatal("a waiter that gave up still stands in the queue")
	}
	if _, err := p.get(context.Background(), 5, nil); !errors.Is(err, errTooMany) {
		t.Fatalf("get of more than there are: %v", err)
	}
	done := make(chan error)
	go func() {
		_, err := p.get(context.Background(), 4, nil)
		done <- err
	}()
	for {
		p.mu.Lock()
		waiting := p.head != nil
		p.mu.Unlock()
		if waiting {
			break
		}
	}
	p.close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Fatalf("get from a closed pool: %v", err)
	}
	p.put(held)
}

func TestPoolReleaseTwicePanics(t *testing.T) {
	p := testPool(t, 1)
	b, _ := p.tryGet(1, nil)
	p.put(b)
	defer func() {
		if recover() == nil {
			t.Fatal("releasing a buffer twice went unnoticed")
		}
	}()
	p.put(b)
}

func TestPoolUnderContention(t *testing.T) {
	p := testPool(t, 16)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 500 {
				b, err := p.get(context.Background(), 1+i, nil)
				if err != nil {
					t.Error(err)
					return
				}
				p.put(b)
			}
		})
	}
	wg.Wait()
	if n := p.available(); n != 16 {
		t.Fatalf("%d of 16 buffers came back", n)
	}
}
