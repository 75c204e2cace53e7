package client

import "dmps/raid"

// opState is what the broker keeps in an Op while it owns it, guarded by
// Volume.mu.
type opState struct {
	left  int   // parts that are not finished; the Op is answered at 0
	start int64 // when it was submitted, nanoseconds
	since int64 // likewise, by Volume.clock
	next  *Op   // in a list

	// OpTrim and OpZero: the whole pages of the range.
	page   raid.PageNo
	count  uint64
	flying bool // OpTrim: in a batch

	wait  waiter    // for buffers of an OpRead, or of the edges of an OpZero
	clean *cleaning // the cleaner's own page-ins
	wrong []uint32  // recovery: members that gave something else, by unit
}

// covers reports whether the whole pages of the range include p.
func (s *opState) covers(p raid.PageNo) bool { return p >= s.page && uint64(p-s.page) < s.count }

// opList is a first-in-first-out list through Op.st.next.
type opList struct {
	head, tail *Op
	n          int
}

func (l *opList) push(op *Op) {
	op.st.next = nil
	if l.tail == nil {
		l.head = op
	} else {
		l.tail.st.next = op
	}
	l.tail = op
	l.n++
}

func (l *opList) pushFront(op *Op) {
	op.st.next = l.head
	l.head = op
	if l.tail == nil {
		l.tail = op
	}
	l.n++
}

func (l *opList) pop() *Op {
	op := l.head
	if op == nil {
		return nil
	}
	l.head = op.st.next
	if l.head == nil {
		l.tail = nil
	}
	op.st.next = nil
	l.n--
	return op
}

// takeAll empties l and returns what it was.
func (l *opList) takeAll() opList {
	all := *l
	*l = opList{}
	return all
}

// bufQueue is a first-in-first-out list through Buf.next.
type bufQueue struct {
	head, tail *Buf
	n          int
}

func (q *bufQueue) push(b *Buf) {
	b.next = nil
	if q.tail == nil {
		q.head = b
	} else {
		q.tail.next = b
	}
	q.tail = b
	q.n++
}

func (q *bufQueue) pushFront(b *Buf) {
	b.next = q.head
	q.head = b
	if q.tail == nil {
		q.tail = b
	}
	q.n++
}

func (q *bufQueue) pop() *Buf {
	b := q.head
	if b == nil {
		return nil
	}
	q.head = b.next
	if q.head == nil {
		q.tail = nil
	}
	b.next = nil
	q.n--
	return b
}
