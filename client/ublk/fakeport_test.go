package ublk

import (
	"fmt"

	"golang.org/x/sys/unix"

	"dmps/client"
)

// fakePort is one queue.
type fakePort struct {
	k       *fakeKernel
	d       *fakeDev
	no, tid int
	tags    []fakeTag
	fetches int
	todo    []fakeCommit
	events  []event
	woken   bool
	dead    bool
	closed  bool
	broken  error // what the next enter ends with
}

type fakeCommit struct {
	tag   uint16
	res   int32
	fetch bool
}

func (k *fakeKernel) port(q, depth int) (port, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.fail["port"]; err != nil {
		return nil, err
	}
	p := &fakePort{k: k, no: q, tid: unix.Gettid(), tags: make([]fakeTag, depth)}
	p.todo, p.events = make([]fakeCommit, 0, 2*depth), make([]event, 0, 2*depth)
	return p, nil
}

// mine checks that the caller is the queue's thread. Locked or not.
func (p *fakePort) mine() {
	if unix.Gettid() != p.tid {
		p.k.t.Errorf("queue %d is used by another thread", p.no)
	}
	if p.closed {
		p.k.t.Errorf("queue %d is used after its end", p.no)
	}
}

func (p *fakePort) attach(f file) error {
	p.mine()
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	p.d = f.(*fakeFile).d
	if p.d.ports[p.no] != nil {
		p.k.t.Errorf("queue %d is still the server's before: START_USER_RECOVERY did not make it anew", p.no)
	}
	p.d.ports[p.no] = p
	return nil
}

func (p *fakePort) fetch(tag uint16) {
	p.mine()
	p.todo = append(p.todo, fakeCommit{tag: tag, fetch: true})
}

func (p *fakePort) commit(tag uint16, res int32) {
	p.mine()
	p.todo = append(p.todo, fakeCommit{tag: tag, res: res})
}

func (p *fakePort) enter(wait bool) error {
	p.mine()
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	for !p.dead {
		p.apply()
		if len(p.events) > 0 || p.woken || !wait || p.broken != nil {
			break
		}
		p.k.cond.Wait()
	}
	if p.dead {
		return errKilled
	}
	return p.broken
}

func (p *fakePort) apply() {
	for _, c := range p.todo {
		t := &p.tags[c.tag]
		if c.fetch {
			if t.state != tagNone || p.fetches >= len(p.tags) {
				p.k.t.Errorf("tag %d was fetched twice", c.tag)
			}
			t.state = tagFetched
			if p.fetches++; p.fetches == len(p.tags) {
				p.d.ready++
				if !p.k.plain[p.tid] {
					p.k.trusted[int(p.d.info.id)]++
				}
			}
			continue
		}
		if t.state != tagOwned {
			p.k.t.Errorf("tag %d was committed without a request", c.tag)
			continue
		}
		r := t.req
		*t = fakeTag{state: tagFetched}
		r.res <- c.res
		if w := p.d.waiting; len(w) > 0 && p.d.info.state == stateLive {
			p.d.waiting = w[1:]
			p.k.dispatch(p.d, w[0])
		}
	}
	if len(p.todo) > 0 {
		p.k.cond.Broadcast()
	}
	p.todo = p.todo[:0]
}

func (p *fakePort) next() (event, bool) {
	p.mine()
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	if p.woken {
		p.woken = false
		return event{kind: eventWake}, true
	}
	if len(p.events) == 0 {
		return event{}, false
	}
	ev := p.events[0]
	p.events = p.events[:copy(p.events, p.events[1:])]
	return ev, true
}

// request is what the server has with a tag; nil after a kill, when whatever the
// process still does is not seen. Locked.
func (p *fakePort) request(tag uint16) *fakeReq {
	if p.dead {
		return nil
	}
	if p.tags[tag].state != tagOwned {
		p.k.t.Errorf("tag %d is looked at without a request", tag)
		return nil
	}
	return p.tags[tag].req
}

func (p *fakePort) desc(tag uint16) ioDesc {
	p.mine()
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	if r := p.request(tag); r != nil {
		return r.desc
	}
	return ioDesc{opFlags: opFlush}
}

func (p *fakePort) load(tag uint16, bufs []*client.Buf, at, n int64) error {
	return p.copy(tag, bufs, at, n, func(page, data []byte) { copy(page, data) })
}

func (p *fakePort) store(tag uint16, bufs []*client.Buf, at, n int64) error {
	return p.copy(tag, bufs, at, n, func(page, data []byte) { copy(data, page) })
}

func (p *fakePort) copy(tag uint16, bufs []*client.Buf, at, n int64, do func(page, data []byte)) error {
	p.mine()
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	r := p.request(tag)
	if r == nil {
		return nil
	}
	if err := p.k.fail["copy"]; err != nil {
		return err
	}
	if int64(len(r.data)) < n {
		p.k.t.Errorf("%d bytes of a request of %d", n, len(r.data))
		return unix.EINVAL
	}
	data := r.data[:n]
	for _, b := range bufs {
		m := min(int64(len(data)), pageSize-at)
		do(b.Page[at:at+m], data[:m])
		data, at = data[m:], 0
	}
	if len(data) > 0 {
		return fmt.Errorf("%d bytes without a page", len(data))
	}
	return nil
}

func (p *fakePort) wake() {
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	if p.closed {
		p.k.t.Error("a wake-up after the end")
	}
	p.woken = true
	p.k.cond.Broadcast()
}

func (p *fakePort) close() error {
	p.mine()
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	p.closed = true
	return nil
}
