package e2e

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"dmps/chaos/e2e/ledger"
)

// volumeStatus is what `dmps status --output json` says of what a volume lost.
type volumeStatus struct {
	State             string
	StuckMembers      uint64 `json:"stuck_members"`
	RebuildingMembers uint64 `json:"rebuilding_members"`
	UnknownPages      uint64 `json:"unknown_pages"`
	EmptyGroups       int    `json:"empty_groups"`
	Groups            int
	Report            *struct {
		LostPages uint64   `json:"lost_pages"`
		Suspect   []string `json:"suspect"`
	}
}

// awaitVolume waits until status says of the volume what ok wants.
func (c *cluster) awaitVolume(what string, ok func(volumeStatus) bool) {
	c.t.Helper()
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		var s struct{ Volumes []volumeStatus }
		r := c.dmps("status", "--output", "json")
		if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
			c.t.Fatalf("status --output json: %v\n%v", err, r)
		}
		if len(s.Volumes) == 1 && ok(s.Volumes[0]) {
			return
		}
		if time.Since(begin) > testLimit/2 {
			c.t.Fatalf("%s: never: %v", what, r)
		}
	}
}

// Three of just six servers are killed together and started again, empty. What
// only they held answers with an error, and status says how much that is; the
// rest is right. When everything is written anew the volume is healthy.
func TestMoreThanMKilledAndStartedAgain(t *testing.T) {
	c := start(t, small)
	conn := c.dial()
	seed := rand.Uint64()
	t.Logf("seed of the ledger: %#x", seed)
	book := ledger.New(int(conn.Size()/ledger.BlockSize), seed)
	must(t, book.Fill(conn))
	for _, s := range c.Servers[:losses+1] {
		must(t, c.Kill(s))
	}
	for i := range losses + 1 {
		if _, err := c.Restart(&c.Servers[i]); err != nil {
			t.Fatal(err)
		}
	}
	c.awaitVolume("the lost members are replaced", func(v volumeStatus) bool {
		return v.StuckMembers == 0 && v.RebuildingMembers > 0 && v.Report != nil && len(v.Report.Suspect) == 0
	})
	r := book.Check(conn)
	t.Logf("%d blocks of %d are gone", r.Failed, book.Blocks())
	for _, v := range r.Violations[:min(5, len(r.Violations))] {
		t.Errorf("wrong data: %v", v)
	}
	for _, f := range r.Failures {
		if !isEIO(f.Err) {
			t.Fatalf("block %d: %v, want EIO", f.First, f.Err)
		}
	}
	if r.Failed == 0 || r.Failed >= book.Blocks()*9/10 {
		t.Errorf("%d blocks of %d are gone", r.Failed, book.Blocks())
	}
	c.awaitVolume("failed, with the number of lost pages", func(v volumeStatus) bool {
		return v.State == "failed" && v.Report.LostPages == uint64(r.Failed)
	})
	if _, code := c.status(); code != lost {
		t.Errorf("status exits with %d while %d pages are lost", code, r.Failed)
	}
	if err := book.Fill(conn); err != nil {
		t.Fatalf("writing everything anew: %v", err)
	}
	c.awaitStatus(healthy, noticeLimit)
	if err := book.Check(conn).Err(); err != nil {
		t.Errorf("after everything was written anew: %v", err)
	}
}
