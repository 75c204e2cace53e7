package ublk

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"dmps/client"
)

// queue is one queue of the device with the thread that serves it. The driver
// takes commands for a queue only from the thread that fetched its first
// requests, so that everything the kernel hears goes through this one.
type queue struct {
	no    int
	dev   client.Device
	port  port
	calls []call // by tag
	done  list   // calls that somebody else is through with
	size  int64  // of the device, bytes
	maxIO int64  // of a request, bytes

	// The thread's.
	open      int   // tags that were fetched and are not over
	flying    int   // calls that are not idle
	submitted bool  // ops wait for Kick
	poor      fifo  // writes that wait for buffers; the first is with the begger
	begging   *call // it
	leaving   bool  // seen leave

	leave atomic.Bool // the kernel shall keep what is not answered
	dead  atomic.Bool // run has ended: who puts a call cleans up after it
	beg   chan *call  // to the begger; capacity 1
	count counters
}

// fifo is a list of calls.
type fifo struct{ head, tail *call }

func (f *fifo) push(k *call) {
	k.next = nil
	if f.tail == nil {
		f.head = k
	} else {
		f.tail.next = k
	}
	f.tail = k
}

func (f *fifo) pop() *call {
	k := f.head
	if f.head = k.next; f.head == nil {
		f.tail = nil
	}
	k.next = nil
	return k
}

func newQueue(no, depth int, dev client.Device, maxIO int64) *queue {
	q := &queue{no: no, dev: dev, calls: make([]call, depth), size: dev.Size(), maxIO: maxIO, beg: make(chan *call, 1)}
	for i := range q.calls {
		k := &q.calls[i]
		k.q, k.tag = q, uint16(i)
		k.op.User, k.op.Done = k, done
		k.op.Bufs = make([]*client.Buf, 0, pagesOf(&client.Op{Len: maxIO})+1)
	}
	return q
}

// put hands a call to the thread. It never blocks.
func (q *queue) put(k *call) {
	q.done.put(q, k)
	if q.dead.Load() {
		q.reclaim()
	}
}

// serve is the life of a queue. It makes its port, says so, waits for the
// device, fetches all its tags, says so, and answers requests until the device
// was stopped, or it shall leave and nothing is in flight. The goroutine must
// end with it: its thread is the queue's, and ends too.
func (q *queue) serve(k kernel, s *starting) error {
	runtime.LockOSThread() // for good
	p, err := k.port(q.no, len(q.calls))
	if err != nil {
		return fmt.Errorf("queue %d: %w", q.no, err)
	}
	q.port = p
	f, ok := s.portReady()
	if !ok {
		return q.end(nil)
	}
	if err := p.attach(f); err != nil {
		return q.end(err)
	}
	if err := k.untrusted(q.fetch); err != nil {
		return q.end(err)
	}
	q.open = len(q.calls)
	s.fetched()
	ctx, cancel := context.WithCancel(context.Background())
	var begger sync.WaitGroup
	begger.Go(func() { q.begger(ctx) })
	err = q.run()
	cancel()
	begger.Wait()
	q.dead.Store(true)
	q.reclaim()
	q.done.settled() // nobody touches the port any more
	return q.end(err)
}

// fetch asks for a first request of each tag.
func (q *queue) fetch() error {
	for i := range q.calls {
		q.port.fetch(uint16(i))
		if i%fetchBatch == fetchBatch-1 || i == len(q.calls)-1 {
			if err := q.port.enter(false); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetchBatch is how many commands go to the driver at once at first.
const fetchBatch = 64

func (q *queue) end(err error) error {
	if cerr := q.port.close(); err == nil {
		err = cerr
	}
	if err != nil {
		err = fmt.Errorf("queue %d: %w", q.no, err)
	}
	return err
}

// run answers requests:
//
//  1. events: each new request becomes an Op; the pages of a write are copied
//     out of the kernel's into the arena's; it is submitted;
//  2. the device is kicked;
//  3. what it has answered by now goes back: pages of a read are copied into
//     the kernel's, the tag is committed;
//  4. with nothing left to do, one system call sends the commits and waits.
func (q *queue) run() error {
	for q.open > 0 && !(q.leaving && q.flying == 0) {
		wait := q.done.rest()
		if q.leave.Load() && !q.leaving {
			q.goAway()
			wait = false
		}
		err := q.port.enter(wait)
		q.done.rise()
		if err != nil {
			return err
		}
		q.count.enters.Add(1)
		for ev, ok := q.port.next(); ok; ev, ok = q.port.next() {
			switch ev.kind {
			case eventRequest:
				q.accept(&q.calls[ev.tag])
			case eventOver:
				q.open--
			case eventFailed:
				return fmt.Errorf("tag %d: %w", ev.tag, ev.err)
			case eventWake:
				q.count.wakes.Add(1)
			}
		}
		q.settle()
		for q.submitted {
			q.submitted = false
			q.dev.Kick()
			q.settle()
		}
	}
	if q.open > 0 {
		return q.port.enter(false) // the last commits
	}
	return nil
}

// accept starts a new request.
func (q *queue) accept(k *call) {
	if q.leaving {
		return // it stays unanswered: the next server is asked again
	}
	d := q.port.desc(k.tag)
	q.flying++
	if err := d.fill(&k.op, q.size, q.maxIO); err != nil {
		k.op.Err = err
		q.answer(k)
		return
	}
	q.count.take(k.op.Kind, k.op.Len)
	if k.op.Kind != client.OpWrite {
		q.submit(k)
		return
	}
	if q.begging == nil {
		if bufs, ok := q.dev.TryAlloc(pagesOf(&k.op), k.op.Bufs[:0]); ok {
			k.op.Bufs = bufs
			q.write(k)
			return
		}
	}
	q.wait(k)
}

// write fills the buffers of a write and submits it.
func (q *queue) write(k *call) {
	if err := q.port.load(k.tag, k.op.Bufs, k.op.Off%pageSize, k.op.Len); err != nil {
		q.dev.Free(k.op.Bufs)
		k.op.Bufs = k.op.Bufs[:0]
		k.op.Err = err
		q.answer(k)
		return
	}
	q.submit(k)
}

func (q *queue) submit(k *call) {
	k.stage = stageOut
	q.submitted = true
	q.dev.Submit(&k.op)
}

// settle goes on with the calls that somebody else is through with.
func (q *queue) settle() {
	for k := q.done.take(); k != nil; {
		next := k.next
		k.next = nil
		if k.stage == stageGiven {
			q.given(k)
		} else {
			q.finish(k)
		}
		k = next
	}
}

// finish answers what the device has answered.
func (q *queue) finish(k *call) {
	if k.op.Kind == client.OpRead {
		if k.op.Err == nil {
			k.op.Err = q.port.store(k.tag, k.op.Bufs, k.op.Off%pageSize, k.op.Len)
		}
		q.dev.Free(k.op.Bufs)
	}
	k.op.Bufs = k.op.Bufs[:0] // those of a write are the device's to free
	q.answer(k)
}

// answer commits a call.
func (q *queue) answer(k *call) {
	k.stage = stageIdle
	q.flying--
	switch {
	case k.op.Err == nil && (k.op.Kind == client.OpRead || k.op.Kind == client.OpWrite):
		q.port.commit(k.tag, int32(k.op.Len))
	case k.op.Err == nil:
		q.port.commit(k.tag, 0)
	case q.leave.Load():
		// The device is closing, which is no reason to lose a page: the next
		// server will be asked again.
	default:
		q.count.errors.Add(1)
		q.port.commit(k.tag, resultOf(k.op.Err))
	}
}
