package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dmps/client"
	"dmps/internal/exitcode"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// Whoever cannot attach what has lost too much is told what is left, and which
// command goes on; nobody else is.
func TestLossAdvice(t *testing.T) {
	cause := errors.New("cause")
	in, lost, filling := raid.MemberInSync, raid.MemberLost, raid.MemberRebuilding
	layout := func(groups ...[]raid.MemberState) *raid.Layout {
		l := &raid.Layout{Name: "v", Geometry: raid.Geometry{K: 2, M: 1}, Pages: 300, ChunkSlots: 102}
		for _, states := range groups {
			var g raid.Group
			for _, s := range states {
				g.Members = append(g.Members, raid.Member{Server: raid.ServerID(fmt.Sprint("s", len(g.Members))), State: s})
			}
			l.Groups = append(l.Groups, g)
		}
		return l
	}
	first := layout([]raid.MemberState{lost, lost, lost})
	first.FirstEpoch = true
	whole := []raid.MemberState{in, in, lost}
	away := []metaclient.Server{{ID: "s0", State: metaclient.ServerUp}, {ID: "s1", State: metaclient.ServerDown}, {ID: "s2", State: metaclient.ServerDown}}
	for name, c := range map[string]struct {
		l        *raid.Layout
		err      error
		accepted bool
		want     []string // nil: no advice
	}{
		"nothing lost":           {layout(whole, whole), cause, false, nil},
		"too much lost":          {layout(whole, []raid.MemberState{in, lost, filling}), cause, false, []string{"1 of 2 groups", "attach v --accept-data-loss"}},
		"too much, accepted":     {layout([]raid.MemberState{in, lost, filling}), cause, true, nil},
		"nothing left":           {layout(whole, []raid.MemberState{filling, filling, lost}), cause, false, []string{"1 of 2 groups", "volume delete v", "volume create v"}},
		"nothing left, accepted": {layout([]raid.MemberState{filling, filling, lost}), cause, true, []string{"volume delete v"}},
		"away":                   {layout(whole, whole), cause, false, []string{"2 of 2 groups cannot be read in full", "s1 (down, members of 2 groups)", "attach v --accept-data-loss"}},
		"some away":              {layout(whole, []raid.MemberState{in, in, in}), cause, false, []string{"2 of 2 groups cannot be read in full", "about 50 %", "2 groups can be read in full again"}},
		"away and accepted":      {layout(whole), cause, true, nil},
		"never opened":           {first, cause, false, nil},
		"another client has it":  {layout([]raid.MemberState{in, lost, lost}), client.ErrFenced, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var servers []metaclient.Server
			if strings.Contains(name, "away") {
				servers = away
			}
			err := lossAdvice(c.err, c.l, stakesOf(c.l, servers), c.accepted)
			var a *advised
			if !errors.Is(err, c.err) || errors.As(err, &a) != (c.want != nil) {
				t.Fatalf("%v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(a.text, w) {
					t.Errorf("%q does not say %q", a.text, w)
				}
			}
		})
	}
}

// Status is failed while pages are gone, says how many, and which command goes on.
func TestStatusOfLoss(t *testing.T) {
	lease, over := &metaclient.Lease{Holder: "h", Remaining: time.Second}, &metaclient.Lease{Holder: "h"}
	for name, c := range map[string]struct {
		v    metaclient.Volume
		want []string
	}{
		"attached":           {metaclient.Volume{BereftGroups: 2, EmptyGroups: 1, Groups: 3, Lease: lease}, []string{"2 of 3 groups", "written anew or trimmed"}},
		"detached":           {metaclient.Volume{BereftGroups: 2, Groups: 3}, []string{"2 of 3 groups", "attach v --accept-data-loss"}},
		"its client is gone": {metaclient.Volume{BereftGroups: 3, EmptyGroups: 3, Groups: 3, Lease: over}, []string{"volume delete v"}},
		"cared for":          {metaclient.Volume{BereftGroups: 2, Groups: 3, Lease: &metaclient.Lease{Care: true}}, []string{"attach v --accept-data-loss"}},
		"nothing left":       {metaclient.Volume{BereftGroups: 3, EmptyGroups: 3, Groups: 3}, []string{"nothing left of 3 of 3 groups", "volume delete v"}},
		"unknown":            {metaclient.Volume{Unknown: 7, UnknownSince: time.Now()}, []string{"misses up to 7 pages", "up to 7 pages gone, unknown which", "gone, unknown which", "volume accept-loss v"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.v.Name, c.v.State, c.v.RedundancyLeft = "v", client.StateFailed, -1
			var b strings.Builder
			r := statusReport{State: client.StateFailed, Volumes: []volumeStatus{{Volume: c.v}}}
			if err := renderStatus(&b, r, palette{}, time.Now()); err != nil {
				t.Fatal(err)
			}
			for _, w := range c.want {
				if !strings.Contains(b.String(), w) {
					t.Errorf("%q is not in\n%s", w, b.String())
				}
			}
		})
	}
}

// Whoever accepts a loss where none is unknown is told how the volume is, and what to do.
func TestNothingToAccept(t *testing.T) {
	lease := &metaclient.Lease{Remaining: time.Second}
	failed := func(r client.Report) *client.Report { r.State = client.StateFailed; return &r }
	for name, c := range map[string]struct {
		v    metaclient.Volume
		want []string // in these lines, in this order
	}{
		"healthy":      {metaclient.Volume{State: client.StateHealthy, RedundancyLeft: 2}, []string{"v is healthy, and misses no unknown pages"}},
		"degraded":     {metaclient.Volume{State: client.StateDegraded}, []string{"v is degraded", "dmps rebuild v --watch"}},
		"lost":         {metaclient.Volume{State: client.StateFailed, RedundancyLeft: -1, Lease: lease, Report: failed(client.Report{LostPages: 9})}, []string{"v is failed", "9 pages of v lost, and it is known which"}},
		"out of reach": {metaclient.Volume{State: client.StateFailed, RedundancyLeft: -1}, []string{"v is failed", "until servers come back"}},
		"lost, and out of reach": {metaclient.Volume{State: client.StateFailed, RedundancyLeft: -1, Lease: lease, Report: failed(client.Report{LostPages: 9, Suspect: []raid.ServerID{"s1"}})},
			[]string{"v is failed", "9 pages of v lost", "until servers come back"}},
		"bereft":       {metaclient.Volume{State: client.StateFailed, RedundancyLeft: -1, BereftGroups: 1, Groups: 2}, []string{"v is failed", "dmps attach v --accept-data-loss"}},
		"not writable": {metaclient.Volume{State: client.StateFailed, Lease: lease, Report: failed(client.Report{})}, []string{"v is failed", "not be written"}},
	} {
		c.v.Name = "v"
		lines := nothingToAccept(&volumeStatus{Volume: c.v})
		if len(lines) != len(c.want) {
			t.Errorf("%s: %q", name, lines)
			continue
		}
		for i, w := range c.want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("%s: %q does not say %q", name, lines[i], w)
			}
		}
	}
}

// Data is called out of reach only when servers may come back with it.
func TestCanLose(t *testing.T) {
	lease, over := &metaclient.Lease{Remaining: time.Second}, &metaclient.Lease{}
	report := func(r client.Report) *client.Report { return &r }
	silent := report(client.Report{Suspect: []raid.ServerID{"s1"}})
	const away, gone = "data is out of reach", "pages are gone"
	for name, c := range map[string]struct {
		v    metaclient.Volume
		want string
	}{
		"some":                             {metaclient.Volume{RedundancyLeft: 2, Unknown: 7}, "can lose 2 more"},
		"none, detached":                   {metaclient.Volume{RedundancyLeft: -1}, away},
		"none, its client hears of all":    {metaclient.Volume{RedundancyLeft: -1, Lease: lease, Report: report(client.Report{})}, away},
		"unknown, its client hears of all": {metaclient.Volume{RedundancyLeft: -1, Unknown: 7, Lease: lease, Report: report(client.Report{})}, gone},
		"unknown, servers silent":          {metaclient.Volume{RedundancyLeft: -1, Unknown: 7, Lease: lease, Report: silent}, away},
		"unknown, its client is gone":      {metaclient.Volume{RedundancyLeft: -1, Unknown: 7, Lease: over, Report: report(client.Report{})}, away},
		"unknown, detached":                {metaclient.Volume{RedundancyLeft: -1, Unknown: 7}, away},
		"members gone":                     {metaclient.Volume{RedundancyLeft: -1, BereftGroups: 1}, gone},
		"lost":                             {metaclient.Volume{RedundancyLeft: -1, Report: report(client.Report{LostPages: 9})}, gone},
		"lost, servers silent":             {metaclient.Volume{RedundancyLeft: -1, BereftGroups: 1, Report: silent}, away},
	} {
		if got := canLoseMore(&c.v); got != c.want {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
		c.v.Name = "v"
		var out bytes.Buffer
		if err := (&app{out: &out}).showVolume(c.v, &raid.Layout{}); err != nil {
			t.Fatal(err)
		}
		if s := out.String(); !strings.Contains(s, c.want) || strings.Contains(s, "accept-loss v") != (c.v.Unknown > 0) {
			t.Errorf("%s: %q, or which command goes on, is not in\n%s", name, c.want, s)
		}
	}
}

// What would be lost with a server tells what is gone, what waits for others, and
// what is not sure, apart.
func TestLossLines(t *testing.T) {
	for want, l := range map[string]metaclient.Loss{
		"data of 1 group for good":                 {Members: 2, GroupsLost: 1, GroupsAway: 1, RedundancyLeft: -2},
		"data of 2 groups is gone for good unless": {Members: 2, GroupsAway: 2, RedundancyLeft: -1},
		"other members miss rows":                  {Members: 2, RedundancyLeft: -1},
		"the next loss":                            {Members: 2},
		"can lose 1 more":                          {Members: 2, RedundancyLeft: 1},
	} {
		if lines := lossLines([]metaclient.Loss{l}); len(lines) != 1 || !strings.Contains(lines[0], want) {
			t.Errorf("%q, want %q", lines, want)
		}
	}
}

// Whoever attaches what is left gives something up, and is asked: without a
// terminal only --yes is an answer.
func TestAcceptedLossIsAsked(t *testing.T) {
	var errs bytes.Buffer
	a := &app{in: strings.NewReader("y\n"), err: &errs}
	meta, err := metaclient.New([]string{"http://127.0.0.1:1"}, metaclient.WithPatience(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer meta.Close()
	for _, c := range []struct {
		f    attachFlags
		code int
	}{{attachFlags{accept: true}, exitcode.Usage}, {attachFlags{accept: true, agreed: consent{given: true}}, 0}, {attachFlags{}, 0}} {
		err := c.f.askLoss(t.Context(), a, meta, "v")
		if (err == nil) != (c.code == 0) || err != nil && (codeOf(err) != c.code || !strings.Contains(err.Error(), "volume v") || !strings.Contains(err.Error(), "--yes")) {
			t.Errorf("%+v: %v", c.f, err)
		}
	}
	code, _, stderr := runCLI("attach", "v", "--accept-data-loss", "--meta", "127.0.0.1:1", "--nbd", "127.0.0.1:0")
	if code != exitcode.Usage || !strings.Contains(stderr, "--yes") {
		t.Errorf("attach itself does not ask: %d, %s", code, stderr)
	}
}

// Who is asked whether a loss is accepted is told how much it is, and who is away.
func TestStakes(t *testing.T) {
	now := time.Now()
	in, lost := raid.MemberInSync, raid.MemberLost
	l := &raid.Layout{Name: "v", Kind: raid.LayoutLog, Geometry: raid.Geometry{K: 2, M: 1}, Pages: 3000, ChunkSlots: 502}
	for g, states := range [][4]raid.MemberState{{in, in, in}, {in, in, lost}, {in, lost, lost}, {lost, lost, lost}} {
		gr := raid.Group{ID: raid.GroupID(g)}
		for c := range 3 {
			gr.Members = append(gr.Members, raid.Member{Server: raid.ServerID(fmt.Sprint("s", (g+c)%5)), State: states[c]})
		}
		l.Groups = append(l.Groups, gr)
	}
	// s1 has a member of the first two groups, s2 one of the first three.
	servers := []metaclient.Server{
		{ID: "s0", State: metaclient.ServerUp}, {ID: "s1", State: metaclient.ServerDown, AwaySince: now.Add(-200 * time.Second)},
		{ID: "s2", State: metaclient.ServerSuspect}, {ID: "s3", State: metaclient.ServerDraining}, {ID: "s4", State: metaclient.ServerDown},
	}
	for _, c := range []struct {
		servers []metaclient.Server
		want    []string
		no      string
	}{
		{servers, []string{
			"4 of 4 groups cannot be read in full: fewer than 2 of their 3 members are on servers that are up. At stake is about 88 % of what is stored, at most 11.7 MiB of 11.7 MiB.",
			"2 of them have lost more than they can bear for good, whoever comes back. Nothing is left of 1.",
			"Away: s1 (down for 3 min 20 s, members of 2 groups), s2 (suspect, members of 3 groups). When they come back with what they hold, 2 groups can be read in full again.",
			"given up for good", "dmps volume accept-loss v",
		}, "s4"},
		{servers[:1], []string{"2 of 4 groups cannot be read in full", "at most 5.86 MiB of 11.7 MiB", "about 38 %", "2 of them have lost"}, "Away"},
	} {
		s := stakesOf(l, c.servers)
		text := strings.Join(s.consequences(&metaclient.Volume{Name: "v"}, now), "\n")
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("%q is not in\n%s", w, text)
			}
		}
		if strings.Contains(text, c.no) || strings.Contains(text, "without --accept-data-loss") {
			t.Errorf("%q is in\n%s", c.no, text)
		}
	}
	l.Groups = l.Groups[:1]
	s := stakesOf(l, servers[:2])
	if text := strings.Join(s.consequences(&metaclient.Volume{Name: "v"}, now), "\n"); s.unreadable != 0 || !strings.Contains(text, "without --accept-data-loss first") || !strings.Contains(text, "Away: s1") {
		t.Errorf("%+v: %s", s, text)
	}
}
