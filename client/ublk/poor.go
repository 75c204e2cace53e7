package ublk

import (
	"context"

	"dmps/client"
)

// The arena is the place where back-pressure shows. The thread of a queue must
// not wait for buffers itself: pages of reads that were answered are given back
// by it. So a write that finds no buffers waits in queue.poor, the ones behind
// it too, and a goroutine, the begger, waits for the buffers of the first.

// wait queues a write that has no buffers.
func (q *queue) wait(k *call) {
	k.stage = stagePoor
	q.count.waits.Add(1)
	q.poor.push(k)
	if q.begging == nil {
		q.begNext()
	}
}

func (q *queue) begNext() {
	q.begging = q.poor.pop()
	q.beg <- q.begging // never blocks: one at a time, and there is room for one
}

// begger waits for buffers until ctx ends.
func (q *queue) begger(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case k := <-q.beg:
			bufs, err := q.dev.Alloc(ctx, pagesOf(&k.op), k.op.Bufs[:0])
			if err == nil {
				k.op.Bufs, k.held = bufs, true
			}
			k.err, k.stage = err, stageGiven
			q.put(k)
		}
	}
}

// given goes on with the write that has its buffers, or none, and with those
// behind it.
func (q *queue) given(k *call) {
	q.begging = nil
	switch {
	case k.held && q.leaving:
		q.dev.Free(k.op.Bufs)
		k.op.Bufs, k.held = k.op.Bufs[:0], false
		q.flying-- // and stays unanswered
		k.stage = stageIdle
	case k.held:
		k.held = false
		q.write(k)
	default:
		k.op.Err = k.err
		q.answer(k)
	}
	for q.poor.head != nil {
		k := q.poor.head
		bufs, ok := q.dev.TryAlloc(pagesOf(&k.op), k.op.Bufs[:0])
		if !ok {
			q.begNext()
			return
		}
		k.op.Bufs = bufs
		q.write(q.poor.pop())
	}
}

// goAway forgets what the device has not got yet. From now on nothing is
// accepted, and run ends when what the device has is answered.
func (q *queue) goAway() {
	q.leaving = true
	for q.poor.head != nil {
		q.poor.pop().stage = stageIdle
		q.flying--
	}
}

// reclaim takes back the buffers of what comes back after the queue has ended:
// from the begger, and from the device when the queue ended with an error.
func (q *queue) reclaim() {
	for k := q.done.take(); k != nil; k = k.next {
		if k.held || k.stage == stageBack && k.op.Kind == client.OpRead {
			q.dev.Free(k.op.Bufs)
		}
		k.op.Bufs, k.held = k.op.Bufs[:0], false
	}
}
