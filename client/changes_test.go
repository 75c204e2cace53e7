package client

import (
	"testing"

	"dmps/raid"
)

// What changed in a layout is put into the one that the client has, and is refused where it
// does not follow on that.
func TestChangesOfALayout(t *testing.T) { virtual(testChangesOfALayout)(t) }

func testChangesOfALayout(t *testing.T) {
	f := newSlowNet(4)
	l := f.layout(raid.LayoutLog, raid.Geometry{K: 1, M: 1}, 64, 3, 150)
	l.Version = 5
	v := openTest(t, f, l)
	defer closeTest(t, v)
	chunks := func() (out [3]raid.ChunkID) {
		v.mu.Lock()
		defer v.mu.Unlock()
		for g := range out {
			out[g] = v.member(raid.GroupID(g), 1).chunk
		}
		return out
	}
	changes := func(since uint64, groups ...raid.GroupID) *raid.Layout {
		next := replaced(f, l, v, "s2", 100)
		all := next.Groups
		next.Since, next.Groups = since, nil
		for _, g := range groups {
			next.Groups = append(next.Groups, all[g])
		}
		return next
	}
	before := chunks()
	beyond := changes(l.Version, 0)
	beyond.Groups[0].ID = 3
	gap := changes(l.Version+1, 0)
	gap.Version++
	for what, bad := range map[string]*raid.Layout{
		"after a version that the client does not have": gap,
		"of a group that there is not":                  beyond,
		"in no order":                                   changes(l.Version, 1, 0),
		"of some groups, as if they were all":           changes(0, 0),
	} {
		if err := v.applyLayout(bad); err == nil || chunks() != before {
			t.Errorf("changes %s: %v, chunks %v", what, err, chunks())
		}
	}
	if err := v.applyLayout(changes(l.Version, 0)); err != nil {
		t.Fatal(err)
	}
	want := before
	want[0] = 100
	if chunks() != want {
		t.Errorf("chunks %v, not %v", chunks(), want)
	}
	if err := v.applyLayout(changes(l.Version)); err != nil { // since a version before the client's own
		t.Fatal(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mu.version != l.Version+2 {
		t.Errorf("version %d after two changes of %d", v.mu.version, l.Version)
	}
}
