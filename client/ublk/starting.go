package ublk

import "context"

// starting is how the queues of a Server and whoever starts it keep step. A
// ring belongs to the thread that made it, so that ports are made before the
// device is there; and all tags of all queues are fetched before it starts.
type starting struct {
	ports   chan struct{} // one for each queue that has its port
	fetches chan struct{} // one for each queue that has fetched
	opened  chan struct{} // closed when file is set, or nil for good
	file    file
}

func newStarting(queues int) *starting {
	return &starting{
		ports: make(chan struct{}, queues), fetches: make(chan struct{}, queues), opened: make(chan struct{}),
	}
}

// portReady is called by a queue. It returns the device, or false when there
// will be none.
func (s *starting) portReady() (file, bool) {
	s.ports <- struct{}{}
	<-s.opened
	return s.file, s.file != nil
}

func (s *starting) fetched() { s.fetches <- struct{}{} }

// open lets the queues go on, with f or to their end.
func (s *starting) open(f file) {
	s.file = f
	close(s.opened)
}

// await waits for n of the queues' signals. It fails when a queue does.
func (s *Server) await(ctx context.Context, n int, signal <-chan struct{}) error {
	for range n {
		select {
		case <-signal:
		case <-s.failed:
			return s.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
