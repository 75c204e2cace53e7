package ublk

import "dmps/client"

// call is a request of the kernel with one tag of one queue. There is one for
// each tag, used again for ever.
type call struct {
	q    *queue
	op   client.Op
	tag  uint16
	held bool  // op.Bufs is ours to free
	err  error // why there are no buffers

	stage stage
	next  *call // in queue.done, or in queue.poor
}

// stage is how far a call has come. The thread's, except that whoever puts the
// call into queue.done sets it before.
type stage uint8

const (
	stageIdle  stage = iota // the kernel has the tag
	stagePoor               // a write that waits for buffers, or for its turn to
	stageGiven              // the wait for buffers is over
	stageOut                // the device has the op
	stageBack               // the device has answered
)

// done is Op.Done of every call.
func done(op *client.Op) {
	k := op.User.(*call)
	k.stage = stageBack
	k.q.put(k)
}
