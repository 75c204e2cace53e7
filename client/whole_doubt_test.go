package client

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/raid"
)

// lastWord is a metadata service that is not heard any more after it was told that
// somebody holds everything, which it notes.
type lastWord struct{ *fakeMeta }

func (m lastWord) Renew(ctx context.Context, id raid.VolumeID, e raid.Epoch, r Report) (uint64, error) {
	if len(r.Rebuilt) > 0 {
		m.mu.Lock()
		m.mute = true
		m.mu.Unlock()
	}
	return m.fakeMeta.Renew(ctx, id, e, r)
}

// Column 2 moves from s2 to s3. The client vouches for s3, the metadata service makes
// it the member, and its answer is lost. s3 is away for a while; a page-out leaves its
// column out and is answered. The client is closed as it should be: its last record says
// that column 2 is whole, as s2 is. s3 is back, and s0 is away: page 0 is to be right, or
// an error, or the volume refuses.
func TestColumnInDoubtIsWholeByTheRecord(t *testing.T) {
	g := raid.Geometry{K: 2, M: 1}
	f := newFakeNet(4)
	l := f.layout(raid.LayoutLog, g, 64, 1, 200)
	m := newFakeMeta(l)
	meta := lastWord{m}
	with := func(c *Config) {
		c.Meta, c.Lease = meta, Lease{TTL: time.Minute, Renew: 10 * time.Millisecond}
		c.Patience = 5 * time.Second
	}
	v := openTest(t, f, l, with)
	r := rand.New(rand.NewPCG(1, 1))
	want := randomBytes(r, 64*raid.PageSize)
	if _, err := v.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	m.drain(f, "s2", "s3")
	waitFor(t, func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.mute })
	f.down("s3", true)
	waitFor(t, func() bool { v.mu.Lock(); defer v.mu.Unlock(); return v.mu.log.InDoubt(0) == 4 })
	old := bytes.Clone(want[:raid.PageSize])
	copy(want, randomBytes(r, raid.PageSize))
	if _, err := v.WriteAt(want[:raid.PageSize], 0); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)

	f.down("s3", false)
	f.down("s0", true)
	m.mu.Lock()
	m.mute = false
	m.layout.Epoch, m.layout.FirstEpoch = 2, false
	m.mu.Unlock()
	l2, err := m.Layout(context.Background(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Layout: l2, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), DialTimeout: time.Second}
	with(&cfg)
	v, err = Open(context.Background(), cfg)
	if err != nil {
		t.Skipf("refused loudly, which is right: %v", err)
	}
	defer closeTest(t, v)
	got := make([]byte, raid.PageSize)
	_, err = v.ReadAt(got, 0)
	rep := v.Report()
	t.Logf("opens: %s, %d lost, %d unknown; page 0: %v", rep.State, rep.LostPages, rep.Unknown, err)
	if err == nil && !bytes.Equal(got, want[:raid.PageSize]) {
		t.Errorf("an answered write is lost without a word; its page reads as the version before: %v", bytes.Equal(got, old))
	}
}
