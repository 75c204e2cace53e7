package client

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"dmps/raid"
)

// A volume is not opened when it cannot be told which pages are gone, unless the
// user has said that this is accepted; nor when another version of dmps wrote to it.
func TestRecoveryRefusesWhatItCannotTell(t *testing.T) { virtual(testRecoveryRefuses)(t) }

func testRecoveryRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		harm     func(c raid.Col, header []byte)
		words    string
		accepted bool // AcceptLoss helps
	}{
		"nothing": {harm: func(raid.Col, []byte) {}},
		"two of three headers of a row are damaged": {words: "it is not known which", accepted: true, harm: func(c raid.Col, b []byte) {
			if c > 0 {
				b[20] ^= 1
			}
		}},
		"a header is of another format": {words: "another version of dmps", harm: func(c raid.Col, b []byte) {
			if c == 1 { // sound, but not ours
				b[0]++
				binary.LittleEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli)))
			}
		}},
	} {
		const pages = 64
		f := newSlowNet(3)
		l := f.layout(raid.LayoutLog, raid.Geometry{K: 2, M: 1}, pages, 1, 100)
		v := openTest(t, f, l)
		if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize), 0); err != nil {
			t.Fatal(err)
		}
		v.mu.Lock()
		i := int(v.mu.log.Place(v.mu.log.Lookup(0).Slot).Index)
		v.mu.Unlock()
		closeTest(t, v)
		for col, m := range l.Groups[0].Members {
			ch := f.servers[string(m.Server)].chunks[uint64(m.Chunk)]
			size := int(ch.spec.HeaderBytes)
			c.harm(raid.Col(col), ch.hdrs[i*size:][:size])
		}
		next := *l
		next.FirstEpoch = false
		for _, accept := range []bool{false, true} {
			next.Epoch++
			again := next
			var log logged
			cfg := Config{
				Layout: &again, Dialer: f, ArenaBytes: 4 << 20, Logger: slog.New(slog.NewTextHandler(&log, nil)), Patience: time.Second, DialTimeout: time.Second, AcceptLoss: accept,
			}
			v, err := Open(context.Background(), cfg)
			if err == nil {
				closeTest(t, v)
			}
			switch good := c.words == "" || accept && c.accepted; {
			case good && err != nil:
				t.Errorf("%s, loss accepted %v: %v", name, accept, err)
			case !good && err == nil:
				t.Errorf("%s, loss accepted %v: opened", name, accept)
			case !good && !strings.Contains(err.Error(), c.words):
				t.Errorf("%s, loss accepted %v: refused because %v", name, accept, err)
			}
			said := log.String()
			if strings.Contains(said, "server is suspect") {
				t.Errorf("%s, loss accepted %v: servers that are up are called suspect:\n%s", name, accept, said)
			}
			if c.accepted && (strings.Contains(said, "until others return") == accept || strings.Contains(said, "the loss was accepted: their pages") != accept) {
				t.Errorf("%s, loss accepted %v: rows that cannot be decoded are told as\n%s", name, accept, said)
			}
			if c.words == "" || err == nil {
				break
			}
		}
	}
}

// Notes that cannot be read are pages of which nobody knows which they are.
func TestRecoveryCountsNotesThatCannotBeRead(t *testing.T) { virtual(testRecoveryCountsNotes)(t) }

func testRecoveryCountsNotes(t *testing.T) {
	const pages = 64
	f := newSlowNet(2)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, pages, 1, 200)
	v := openTest(t, f, l)
	if _, err := v.WriteAt(randomBytes(rand.New(rand.NewPCG(1, 1)), pages*raid.PageSize), 0); err != nil {
		t.Fatal(err)
	}
	if err := v.Trim(0, 8*raid.PageSize); err != nil {
		t.Fatal(err)
	}
	closeTest(t, v)
	n := 0
	for _, m := range l.Groups[0].Members {
		ch := f.servers[string(m.Server)].chunks[uint64(m.Chunk)]
		for i := raid.ViewRows; i < int(ch.spec.Slots); i++ {
			if h, err := raid.ParseHeader(ch.hdrs[i*raid.HeaderSize:][:raid.HeaderSize]); err == nil && h.Kind == raid.KindNotes {
				ch.pages[i*raid.PageSize+50] ^= 1
				n++
			}
		}
	}
	if n != 2 {
		t.Fatalf("%d slots hold the note", n)
	}
	next := *l
	next.Epoch, next.FirstEpoch = 2, false
	cfg := Config{Layout: &next, Dialer: f, ArenaBytes: 4 << 20, Logger: quiet(), Patience: time.Second, DialTimeout: time.Second}
	if v, err := Open(context.Background(), cfg); err == nil {
		closeTest(t, v)
		t.Error("opened although a note cannot be read")
	} else if !strings.Contains(err.Error(), "it is not known which") {
		t.Errorf("refused because %v", err)
	}
}
