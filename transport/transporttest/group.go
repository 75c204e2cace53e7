package transporttest

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"dmps/raid"
	"dmps/transport"
)

// Group is what RunRebuild tests: servers that can dial each other.
type Group struct {
	NewDialer func() transport.Dialer
	Cluster   string
	Servers   []Peer
}

// Peer is a server of a Group.
type Peer struct {
	Addr        string
	Incarnation uint64
	// Kill ends the server for good, as a crash does.
	Kill func()
	// Damage changes a byte of a stored page, or of its header, behind the
	// server's back.
	Damage func(chunk uint64, slot uint32, header bool)
}

// GroupFactory starts n servers with at least 8 MiB each, and ends them with
// the test.
type GroupFactory func(t *testing.T, n int) Group

// codec is what a client knows of a group of rows: what it wrote, by column.
type codec struct {
	t     *testing.T
	geo   raid.Geometry
	group Group
	d     transport.Dialer
	conns []transport.Conn // by column: owner sessions
	mem   []byte           // registered: 32 pages, then 32 headers
	rows  []transport.RebuildRow
	heads [][][]byte // column, row
	pages [][][]byte
}

const (
	groupChunk  = 100 // + column: the chunks of the rows
	targetChunk = 200 // + column: replacements
	groupSlots  = 1100
	groupEpoch  = 3
	groupID     = 5
)

func (c *codec) hello(epoch uint64) transport.Hello {
	return transport.Hello{Cluster: c.group.Cluster, Volume: volume, Epoch: epoch, Client: "conformance"}
}

// newCodec writes n rows, each with 1 to K columns filled, as a client does.
func newCodec(t *testing.T, f GroupFactory, g raid.Geometry, n int) *codec {
	t.Helper()
	c := &codec{t: t, geo: g, group: f(t, g.Members())}
	c.d = c.group.NewDialer()
	c.mem = mapMemory(t, transport.MaxSegs*(transport.PageSize+raid.MaxHeaderSize))
	if err := c.d.Register(c.mem); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.d.Close(); err != nil {
			t.Error(err)
		}
	})
	c.heads, c.pages = make([][][]byte, g.Members()), make([][][]byte, g.Members())
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	for r := range n {
		filled := uint16(1)<<(1+rnd.IntN(g.K)) - 1
		index := uint32(r + r/40) // runs with gaps
		seq := raid.Seq(r/7 + 1<<40)
		c.encode(rnd, index, seq, filled)
		c.rows = append(c.rows, transport.RebuildRow{Index: index, Tag: raid.TagOf(seq), Filled: filled})
	}
	for col := range g.Members() {
		conn, _, err := c.d.Dial(ctx(t), c.group.Servers[col].Addr, c.hello(groupEpoch), nil)
		if err != nil {
			t.Fatal(err)
		}
		c.conns = append(c.conns, conn)
		c.open(col, groupChunk+uint64(col))
		c.open(col, targetChunk+uint64(col))
		c.write(col, groupChunk+uint64(col), c.all(col))
	}
	return c
}

func (c *codec) open(col int, chunk uint64) {
	c.t.Helper()
	spec := transport.ChunkSpec{Slots: groupSlots, HeaderBytes: uint32(raid.HeaderBytes(c.geo, raid.Col(col))), Group: groupID}
	if err := c.conns[col].OpenChunk(ctx(c.t), chunk, spec); err != nil {
		c.t.Fatal(err)
	}
}

// encode appends a row as client/batch.go makes it.
func (c *codec) encode(rnd *rand.Rand, index uint32, seq raid.Seq, filled uint16) {
	g := c.geo
	coder, err := raid.NewCoder(g)
	if err != nil {
		c.t.Fatal(err)
	}
	row := raid.Header{Filled: filled, Members: uint32(1)<<g.Members() - 1, Seq: seq, Settled: seq - 3, Site: site(index)}
	row.Group = groupID
	table := make([]raid.RowEntry, g.K)
	data, parity := make([][]byte, g.K), make([][]byte, g.M)
	for d := range g.K {
		var head []byte
		if filled>>d&1 != 0 {
			data[d] = make([]byte, transport.PageSize)
			for i := 0; i < len(data[d]); i += 8 {
				data[d][i], data[d][i+3] = byte(rnd.Uint32()), byte(rnd.Uint32())
			}
			h := row
			h.Kind, h.Page, h.CRC = raid.KindPage, raid.PageNo(rnd.Uint32()), raid.Checksum(data[d])
			if rnd.IntN(10) == 0 {
				h.Kind, h.Page = raid.KindNotes, 0
			}
			head = make([]byte, raid.HeaderSize)
			h.Put(head, nil)
			table[d] = raid.RowEntry{Page: h.Page, CRC: h.CRC, Kind: h.Kind}
		}
		c.heads[d], c.pages[d] = append(c.heads[d], head), append(c.pages[d], data[d])
	}
	for p := range parity {
		parity[p] = make([]byte, transport.PageSize)
	}
	coder.EncodeRow(data, parity)
	for p := range parity {
		col := g.K + p
		head := make([]byte, raid.HeaderBytes(g, raid.Col(col)))
		if g.Mirror() {
			copy(head, c.heads[0][len(c.heads[0])-1])
		} else {
			h := row
			h.Kind, h.CRC = raid.KindParity, raid.Checksum(parity[p])
			h.Put(head, table)
		}
		c.heads[col], c.pages[col] = append(c.heads[col], head), append(c.pages[col], parity[p])
	}
}

// all lists the rows that have something in a column.
func (c *codec) all(col int) []int {
	var l []int
	for i := range c.rows {
		if c.heads[col][i] != nil {
			l = append(l, i)
		}
	}
	return l
}

// request is op on up to 32 rows, in the codec's memory.
func (c *codec) request(op transport.Op, col int, chunk uint64, rows []int) *transport.Request {
	q := &transport.Request{Op: op, Chunk: chunk}
	size := raid.HeaderBytes(c.geo, raid.Col(col))
	for i, r := range rows {
		o := transport.MaxSegs*transport.PageSize + i*raid.MaxHeaderSize
		s := transport.Seg{Index: c.rows[r].Index, Page: c.mem[i*transport.PageSize : (i+1)*transport.PageSize], Header: c.mem[o : o+size]}
		if op == transport.OpWrite {
			copy(s.Page, c.pages[col][r])
			copy(s.Header, c.heads[col][r])
		}
		q.Segs = append(q.Segs, s)
	}
	return q
}

func (c *codec) do(conn transport.Conn, q *transport.Request) error {
	c.t.Helper()
	return (&rig{t: c.t}).do(conn, q)
}

func (c *codec) write(col int, chunk uint64, rows []int) {
	c.t.Helper()
	for len(rows) > 0 {
		n := min(len(rows), transport.MaxSegs)
		if err := c.do(c.conns[col], c.request(transport.OpWrite, col, chunk, rows[:n])); err != nil {
			c.t.Fatal(err)
		}
		rows = rows[n:]
	}
}

// stored reports which rows the target of col holds, and fails the test for
// those that are neither empty or erased nor byte for byte what the client wrote.
func (c *codec) stored(conn transport.Conn, col int) []bool {
	c.t.Helper()
	got := make([]bool, len(c.rows))
	var rows []int
	for i := range c.rows {
		rows = append(rows, i)
	}
	for len(rows) > 0 {
		n := min(len(rows), transport.MaxSegs)
		q := c.request(transport.OpRead, col, targetChunk+uint64(col), rows[:n])
		if err := c.do(conn, q); err != nil {
			c.t.Fatal(err)
		}
		for i, r := range rows[:n] {
			s := q.Segs[i]
			if h, err := raid.ParseHeader(s.Header); err == nil && !h.Holds() {
				continue
			}
			got[r] = true
			if !bytes.Equal(s.Header, c.heads[col][r]) || !bytes.Equal(s.Page, c.pages[col][r]) {
				c.t.Fatalf("%v, column %d, row %d is not what the client wrote:\n%x\n%x", c.geo, col, r, s.Header, c.heads[col][r])
			}
		}
		rows = rows[n:]
	}
	return got
}

// spec asks for all rows of a column from all others but without.
func (c *codec) spec(col int, without uint32) *transport.RebuildSpec {
	s := &transport.RebuildSpec{Chunk: targetChunk + uint64(col), K: c.geo.K, M: c.geo.M, Col: uint8(col)}
	for o := range c.geo.Members() {
		if o != col && without>>o&1 == 0 {
			p := c.group.Servers[o]
			s.Sources = append(s.Sources, transport.RebuildSource{Addr: p.Addr, Incarnation: p.Incarnation, Chunk: groupChunk + uint64(o), Col: uint8(o)})
		}
	}
	for _, i := range c.all(col) {
		r := c.rows[i]
		for _, o := range s.Sources {
			if c.heads[o.Col][i] != nil {
				r.Have |= 1 << o.Col
			}
		}
		s.Rows = append(s.Rows, r)
	}
	return s
}
