package meta

import (
	"bytes"
	"errors"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// pipes is a stream layer whose callers are in this process.
type pipes struct {
	in   chan net.Conn
	done chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.in:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "here", Net: "unix"} }
func (p *pipes) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	return nil, errors.New("nobody is called")
}

// recorder is a stream layer that keeps what is sent, and answers nothing.
type recorder struct {
	pipes
	sent bytes.Buffer
}

func (r *recorder) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		buf := make([]byte, 1<<16)
		n, _ := there.Read(buf) // a request is one write; the connection ends with it
		r.sent.Write(buf[:n])
		_ = there.Close()
	}()
	return here, nil
}

// requested is what a node sends for a request.
func requested(f *testing.F, request func(*raft.NetworkTransport) error) []byte {
	r := &recorder{pipes: pipes{in: make(chan net.Conn), done: make(chan struct{})}}
	t := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: r, MaxPool: 1, MaxRPCsInFlight: 1, Timeout: time.Minute, Logger: raftLogger(quiet())})
	if err := request(t); err == nil {
		f.Fatal("it was answered")
	}
	if err := t.Close(); err != nil {
		f.Fatal(err)
	}
	if r.sent.Len() == 0 {
		f.Fatal("nothing was sent")
	}
	return r.sent.Bytes()
}

// FuzzRaftPort sends what it likes to Raft's port, after the handshake: nothing of it ends
// the process, takes much memory, or gets to Raft with a term or a configuration that
// cannot be.
func FuzzRaftPort(f *testing.F) {
	head := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("m2"), Addr: []byte("h:1/m2")}
	config := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "m2", Address: "h:1/m2"}}})
	for _, request := range []func(*raft.NetworkTransport) error{
		func(t *raft.NetworkTransport) error {
			return t.AppendEntries("m1", "m1", &raft.AppendEntriesRequest{RPCHeader: head, Term: 3}, nil)
		},
		func(t *raft.NetworkTransport) error {
			entries := []*raft.Log{{Index: 4, Term: 3, Type: raft.LogConfiguration, Data: config}}
			return t.AppendEntries("m1", "m1", &raft.AppendEntriesRequest{RPCHeader: head, Term: 3, Entries: entries}, nil)
		},
		func(t *raft.NetworkTransport) error {
			return t.RequestVote("m1", "m1", &raft.RequestVoteRequest{RPCHeader: head, Term: 1 << 60, LastLogIndex: 9}, nil)
		},
		func(t *raft.NetworkTransport) error {
			q := &raft.InstallSnapshotRequest{RPCHeader: head, SnapshotVersion: 1, Term: 3, Configuration: config, Size: 3}
			return t.InstallSnapshot("m1", "m1", q, nil, bytes.NewReader([]byte("abc")))
		},
		func(t *raft.NetworkTransport) error {
			return t.TimeoutNow("m1", "m1", &raft.TimeoutNowRequest{RPCHeader: head}, nil)
		},
	} {
		f.Add(requested(f, request))
	}
	f.Add([]byte{0, 0xdf, 0xff, 0xff, 0xff, 0xff})                                 // a map of 2^32-1 entries
	f.Add([]byte{0, 0x81, 0xa4, 'T', 'e', 'r', 'm', 0xc6, 0xff, 0xff, 0xff, 0xff}) // bytes without end
	f.Add([]byte{9})
	f.Fuzz(func(t *testing.T, b []byte) {
		layer := &pipes{in: make(chan net.Conn), done: make(chan struct{})}
		g := guardTerms(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: layer, MaxPool: 1, MaxRPCsInFlight: 1, Timeout: time.Second, Logger: raftLogger(quiet())}), 3)
		got := make(chan struct{})
		answer := func(rpc raft.RPC) {
			if q, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok {
				raft.DecodeConfiguration(q.Configuration)
			}
			rpc.Respond(nil, errors.New("no"))
		}
		g.SetHeartbeatHandler(answer)
		go func() {
			defer close(got)
			for {
				select {
				case rpc := <-g.Consumer():
					answer(rpc)
				case <-g.done:
					return
				}
			}
		}()
		here, there := net.Pipe()
		layer.in <- there
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		go func() {
			_, _ = here.Write(b) // it may be refused in the middle
			_ = here.Close()
		}()
		for buf := make([]byte, 512); ; {
			if _, err := here.Read(buf); err != nil {
				break
			}
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		<-got
		if g.known.Load() > 3+maxTermJump {
			t.Errorf("term %d is believed", g.known.Load())
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
			t.Errorf("%d bytes make it allocate %d MiB", len(b), n>>20)
		}
	})
}
