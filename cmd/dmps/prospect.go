package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"dmps/meta"
	"dmps/raid"
	"dmps/transport"
	"dmps/transport/media"
)

// prospectVolume is what would become of a volume if a backup were restored.
type prospectVolume struct {
	Volume     string `json:"volume"`
	Groups     int    `json:"groups"`
	Members    int    `json:"members"` // that the backup knows
	Held       int    `json:"held"`    // of these: their servers hold them
	Gone       int    `json:"gone"`    // their servers do not: they were lost or moved after the backup
	Unanswered int    `json:"unanswered"`
	GroupsLost int    `json:"groups_lost"` // fewer members than are needed are held or may be
	GroupsAway int    `json:"groups_away"` // the same, if servers that did not answer do not come back
}

// askServer bounds what is asked of one memory server.
const askServer = 10 * time.Second

// prospect says what would be lost with a restore, and makes nothing.
func (a *app) prospect(ctx context.Context, file, output string) error {
	var p meta.Prospect
	err := a.readBackup(file, func(in io.Reader) (err error) {
		p, err = meta.ReadBackup(ctx, in)
		return err
	})
	if err != nil {
		return err
	}
	all := []prospectVolume{}
	for _, l := range p.Layouts {
		all = append(all, a.prospectOf(ctx, l))
	}
	if output == "json" {
		return printJSON(a.out, struct {
			meta.Prospect
			Volumes []prospectVolume `json:"prospect"`
		}{p, all})
	}
	lines := []string{fmt.Sprintf("cluster %s as of command %d: %s, %s", p.Cluster, p.Applied, count(uint64(p.Volumes), "volume"), count(uint64(p.Servers), "memory server"))}
	if len(p.Living) > 0 {
		lines = append(lines, "it would be refused: nodes of this cluster live: "+strings.Join(p.Living, ", "))
	}
	for _, v := range all {
		lines = append(lines, v.line())
	}
	lines = append(lines, "volumes that were created after the backup would be forgotten; what servers hold of them is kept until it is purged")
	_, err = fmt.Fprintln(a.out, strings.Join(lines, "\n"))
	return err
}

func (v prospectVolume) line() string {
	text := fmt.Sprintf("volume %s: of %s %d are held, %d are not, of %d nobody answers", v.Volume, count(uint64(v.Members), "member"), v.Held, v.Gone, v.Unanswered)
	switch {
	case v.GroupsLost > 0:
		return text + fmt.Sprintf(": the data of %d of %s would be lost", v.GroupsLost, count(uint64(v.Groups), "group"))
	case v.GroupsAway > 0:
		return text + fmt.Sprintf(": the data of %d of %s would be lost unless servers that did not answer come back", v.GroupsAway, count(uint64(v.Groups), "group"))
	}
	return text + ": no data would be lost"
}

// holding is what became known of a member.
type holding uint8

const (
	unanswered holding = iota
	held
	notHeld
)

// askedServer is a memory server in the life that the backup knows.
type askedServer struct {
	addr        string
	incarnation raid.Incarnation
}

// askedMember is where a member lies in its volume.
type askedMember struct {
	group int
	col   raid.Col
}

// prospectOf asks the servers of a volume what of it they hold.
func (a *app) prospectOf(ctx context.Context, l *raid.Layout) prospectVolume {
	places := map[askedServer][]askedMember{}
	found := make([][]holding, len(l.Groups))
	for g, group := range l.Groups {
		found[g] = make([]holding, len(group.Members))
		for c, m := range group.Members {
			if m.State != raid.MemberLost {
				s := askedServer{m.Addr, m.Incarnation}
				places[s] = append(places[s], askedMember{g, raid.Col(c)})
			}
		}
	}
	var wg sync.WaitGroup
	for s, at := range places {
		wg.Go(func() { a.askHoldings(ctx, l, s, at, found) })
	}
	wg.Wait()
	return tally(l, found)
}

// askHoldings asks one server after its members, as a reader: it creates nothing and
// fences nobody. What is not answered stays as it is in found.
func (a *app) askHoldings(ctx context.Context, l *raid.Layout, s askedServer, at []askedMember, found [][]holding) {
	ctx, cancel := context.WithTimeout(ctx, askServer)
	defer cancel()
	conn, _, err := (&media.Dialer{Log: a.logger()}).Dial(ctx, s.addr, transport.Hello{
		Cluster: l.Cluster, Volume: uint64(l.Volume), Epoch: uint64(l.Epoch), Incarnation: uint64(s.incarnation),
		Mode: transport.ModeReader, Client: "dry run of a restore",
	}, nil)
	if errors.Is(err, transport.ErrIncarnation) { // it was started again, empty
		for _, p := range at {
			found[p.group][p.col] = notHeld
		}
	}
	if err != nil {
		return
	}
	defer conn.Abort(transport.ErrClosed)
	for _, p := range at {
		switch err := conn.OpenChunk(ctx, uint64(l.Groups[p.group].Members[p.col].Chunk), transport.ChunkSpec{
			Slots: l.ChunkSlots, HeaderBytes: uint32(l.HeaderBytes(p.col)), Group: uint32(l.Groups[p.group].ID),
			InPlace: l.Kind != raid.LayoutLog, MustExist: true,
		}); {
		case err == nil:
			found[p.group][p.col] = held
		case errors.Is(err, transport.ErrNoChunk):
			found[p.group][p.col] = notHeld
		default:
			return // it ended: of the rest nothing is known
		}
	}
}

// tally adds up what was found of a volume.
func tally(l *raid.Layout, found [][]holding) prospectVolume {
	v := prospectVolume{Volume: l.Name, Groups: len(l.Groups)}
	for g, group := range l.Groups {
		sure, perhaps := 0, 0
		for c, m := range group.Members {
			if m.State == raid.MemberLost {
				continue
			}
			v.Members++
			switch found[g][c] {
			case held:
				v.Held++
			case notHeld:
				v.Gone++
			case unanswered:
				v.Unanswered++
			}
			if m.State == raid.MemberInSync && found[g][c] != notHeld {
				perhaps++
				if found[g][c] == held {
					sure++
				}
			}
		}
		switch k := l.Geometry.K; {
		case perhaps < k:
			v.GroupsLost++
		case sure < k:
			v.GroupsAway++
		}
	}
	return v
}
