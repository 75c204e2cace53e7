package meta

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"dmps/internal/accept"
)

// Raft's connections begin with a handshake, so that a node of another
// cluster, or one that lost its disk and is somebody else now, is told so
// instead of taking part:
//
//	caller:  "DMPR", u8 version 1, text cluster, text id of the node meant, text auth
//	callee:  u8 0 to go on, 1 to refuse, 2 if the caller's generation is over; text
//	         its process, or why, or its generation
//
// A text is a u8 length and that many bytes. auth is the place of
// authentication and must be empty. A process is Node.process. The cluster is its id,
// and "." and its generation (state.State.Generation) unless that is 1.
const (
	handshakeMagic   = "DMPR"
	handshakeVersion = 1
	handshakeTimeout = 3 * time.Second
)

// peerAddress is what Raft's configuration holds of a node: where it listens
// and who must answer there.
func peerAddress(hostPort, id string) raft.ServerAddress {
	return raft.ServerAddress(hostPort + "/" + id)
}

func splitPeerAddress(a raft.ServerAddress) (hostPort, id string) {
	hostPort, id, _ = strings.Cut(string(a), "/")
	return hostPort, id
}

// streamLayer carries Raft between nodes of one cluster.
type streamLayer struct {
	listener net.Listener
	self     raft.ServerAddress
	cluster  string
	process  string
	gen      uint64        // generation of the cluster
	newer    func(uint64)  // called when a higher one was heard of; nil: nobody minds
	ready    chan net.Conn // after the handshake
	done     chan struct{}
	wg       sync.WaitGroup
	once     sync.Once
	muted    atomic.Bool // the watchdog keeps this node from speaking

	mu struct {
		sync.Mutex
		conns map[net.Conn]struct{} // open, to be closed when muted
	}
}

func newStreamLayer(l net.Listener, self raft.ServerAddress, id identity, process string, newer func(uint64)) *streamLayer {
	s := &streamLayer{listener: accept.Keep(l, nil), self: self, cluster: id.Cluster, gen: id.generation(), newer: newer, process: process, ready: make(chan net.Conn), done: make(chan struct{})}
	s.mu.conns = map[net.Conn]struct{}{}
	s.wg.Add(1)
	go s.listen()
	return s
}

func (s *streamLayer) listen() {
	defer s.wg.Done()
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.greet(c)
		}()
	}
}

// greet does the handshake with a caller and hands the connection to Raft.
func (s *streamLayer) greet(c net.Conn) {
	t := s.track(c)
	if t == nil {
		return
	}
	if err := s.answerHandshake(t); err != nil {
		_ = t.Close() // the caller was told why, or is not there any more
		return
	}
	select {
	case s.ready <- t:
	case <-s.done:
		_ = t.Close()
	}
}

func (s *streamLayer) answerHandshake(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	why := checkHandshake(c, s.cluster, s.gen, string(s.self))
	reply := appendText([]byte{0}, s.process)
	var other *generationError
	switch {
	case errors.As(why, &other) && other.is < s.gen:
		reply = appendText([]byte{2}, strconv.FormatUint(s.gen, 10))
	case why != nil:
		reply = appendText([]byte{1}, why.Error())
	}
	if other != nil && other.is > s.gen && s.newer != nil {
		s.newer(other.is)
	}
	_, err := c.Write(reply)
	return errors.Join(why, err, c.SetDeadline(time.Time{}))
}

// generationError is a peer of another generation of the same cluster.
type generationError struct{ is, want uint64 }

func (e *generationError) Error() string {
	return fmt.Sprintf("generation %d of the cluster, this is generation %d", e.is, e.want)
}

// standing is how the handshake names a cluster and its generation.
func standing(cluster string, generation uint64) string {
	if generation <= 1 {
		return cluster // what versions without generations say
	}
	return cluster + "." + strconv.FormatUint(generation, 10)
}

// parseStanding reads it.
func parseStanding(s string) (cluster string, generation uint64) {
	cluster, number, _ := strings.Cut(s, ".")
	if g, err := strconv.ParseUint(number, 10, 64); err == nil {
		return cluster, g
	}
	return cluster, 1
}

func checkHandshake(r io.Reader, cluster string, generation uint64, self string) error {
	h, err := readHandshake(r)
	is, gen := parseStanding(h.cluster)
	_, id := splitPeerAddress(raft.ServerAddress(self))
	switch {
	case err != nil:
		return err
	case is != cluster:
		return fmt.Errorf("this is cluster %s, not %s", cluster, is)
	case gen != generation:
		return &generationError{gen, generation}
	case h.target != id:
		return fmt.Errorf("this is node %s, not %s", id, h.target)
	case h.auth != "":
		return errors.New("authentication is not known to this version")
	}
	return nil
}

// handshake is a caller's half.
type handshake struct{ cluster, target, auth string }

func (h handshake) encode() []byte {
	b := append([]byte(handshakeMagic), handshakeVersion)
	return appendText(appendText(appendText(b, h.cluster), h.target), h.auth)
}

func appendText(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...)
}

func readHandshake(r io.Reader) (handshake, error) {
	var head [len(handshakeMagic) + 1]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return handshake{}, fmt.Errorf("handshake: %w", err)
	}
	if string(head[:4]) != handshakeMagic {
		return handshake{}, errors.New("not a metadata node's handshake")
	}
	if head[4] != handshakeVersion {
		return handshake{}, fmt.Errorf("handshake of version %d, this is version %d", head[4], handshakeVersion)
	}
	var h handshake
	for _, p := range []*string{&h.cluster, &h.target, &h.auth} {
		t, err := readText(r)
		if err != nil {
			return handshake{}, fmt.Errorf("handshake: %w", err)
		}
		*p = t
	}
	return h, nil
}

func readText(r io.Reader) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", err
	}
	b := make([]byte, n[0])
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// Dial implements raft.StreamLayer.
func (s *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	hostPort, id := splitPeerAddress(address)
	if s.muted.Load() {
		return nil, errors.New("this node is silent: its disk stalls")
	}
	raw, err := net.DialTimeout("tcp", hostPort, timeout)
	if err != nil {
		return nil, err
	}
	c := s.track(raw)
	if c == nil {
		return nil, net.ErrClosed
	}
	if _, err := s.introduce(c, id, handshakeTimeout); err != nil {
		return nil, errors.Join(fmt.Errorf("node %s at %s: %w", id, hostPort, err), c.Close())
	}
	return c, nil
}

// ask opens a connection only to see whether the node that is meant answers, and
// which process of it.
func (s *streamLayer) ask(address raft.ServerAddress, timeout time.Duration) (process string, err error) {
	hostPort, id := splitPeerAddress(address)
	c, err := net.DialTimeout("tcp", hostPort, timeout)
	if err != nil {
		return "", err
	}
	process, err = s.introduce(c, id, timeout)
	_ = c.Close() // it has served
	return process, err
}

// introduce is the caller's half of the handshake, and gives the callee's process.
func (s *streamLayer) introduce(c net.Conn, id string, timeout time.Duration) (process string, err error) {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := c.Write(handshake{cluster: standing(s.cluster, s.gen), target: id}.encode()); err != nil {
		return "", err
	}
	r := bufio.NewReaderSize(io.LimitReader(c, 257), 257) // the callee says no more before Raft asks
	status, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	text, err := readText(r)
	if err != nil {
		return "", err
	}
	if status == 2 {
		if is, err := strconv.ParseUint(text, 10, 64); err == nil && is > s.gen && s.newer != nil {
			s.newer(is)
		}
		return "", fmt.Errorf("refused: that is generation %s of the cluster, this is generation %d", text, s.gen)
	}
	if status != 0 {
		return "", fmt.Errorf("refused: %s", text)
	}
	return text, c.SetDeadline(time.Time{})
}

// mute closes all connections and opens none until it is called with false.
func (s *streamLayer) mute(on bool) {
	s.muted.Store(on)
	if !on {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.mu.conns {
		_ = c.Close() // to break it is the purpose
	}
	clear(s.mu.conns)
}

// track notes an open connection; nil when it had to be closed at once.
func (s *streamLayer) track(c net.Conn) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		_ = c.Close()
		return nil
	default:
	}
	if s.muted.Load() {
		_ = c.Close()
		return nil
	}
	s.mu.conns[c] = struct{}{}
	return &trackedConn{Conn: c, layer: s}
}

type trackedConn struct {
	net.Conn
	layer *streamLayer
}

func (t *trackedConn) Close() error {
	t.layer.mu.Lock()
	delete(t.layer.mu.conns, t.Conn)
	t.layer.mu.Unlock()
	return t.Conn.Close()
}

// Accept implements net.Listener.
func (s *streamLayer) Accept() (net.Conn, error) {
	select {
	case c := <-s.ready:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *streamLayer) Close() error {
	var err error
	s.once.Do(func() {
		close(s.done)
		err = s.listener.Close()
		s.mu.Lock()
		for c := range s.mu.conns {
			_ = c.Close()
		}
		clear(s.mu.conns)
		s.mu.Unlock()
		s.wg.Wait()
	})
	return err
}

// Addr implements net.Listener.
func (s *streamLayer) Addr() net.Addr { return layerAddr(s.self) }

type layerAddr raft.ServerAddress

func (layerAddr) Network() string  { return "dmps-raft" }
func (a layerAddr) String() string { return string(a) }
