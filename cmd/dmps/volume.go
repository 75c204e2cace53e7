package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/internal/bytesize"
	"dmps/meta/metaclient"
	"dmps/raid"
)

func (a *app) volumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "volume",
		Short:   "Create, list, show and delete volumes, and accept what one has lost",
		GroupID: groupManage,
		Args:    cobra.NoArgs,
		RunE:    needSubcommand,
	}
	cmd.AddCommand(a.volumeCreateCommand(), a.volumeListCommand(), a.volumeShowCommand(), a.volumeDeleteCommand(), a.volumeAcceptLossCommand())
	return cmd
}

// needSubcommand is the RunE of a command that only groups others.
func needSubcommand(cmd *cobra.Command, _ []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return usageError("%s: say what: %s", cmd.CommandPath(), strings.Join(names, ", "))
}

// geometryFlag and layoutFlag are pflag.Values of package raid's types.
type geometryFlag raid.Geometry

func (g *geometryFlag) String() string { return raid.Geometry(*g).String() }
func (g *geometryFlag) Type() string   { return "scheme" }
func (g *geometryFlag) Set(s string) error {
	v, err := raid.ParseGeometry(s)
	if err == nil {
		*g = geometryFlag(v)
	}
	return err
}

type layoutFlag raid.LayoutKind

func (l *layoutFlag) String() string { return raid.LayoutKind(*l).String() }
func (l *layoutFlag) Type() string   { return "layout" }
func (l *layoutFlag) Set(s string) error {
	v, err := raid.ParseLayoutKind(s)
	if err == nil {
		*l = layoutFlag(v)
	}
	return err
}

// shapeFlags are what a volume is made of; `volume create`, `dev` and `bench`
// have them.
type shapeFlags struct {
	size       bytesize.Size
	redundancy geometryFlag
	layout     layoutFlag
}

func (s *shapeFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&s.size, "size", "size of the volume, for example 16GiB")
	f.Var(&s.redundancy, "redundancy", "none, mirror:N (N copies) or rs:K+M (any M of K+M servers may be lost)")
	f.Var(&s.layout, "layout", "log (rows are written once), or without redundancy linear or striped (pages stay in place)")
	completeChoice(cmd, "redundancy", []string{"none", "mirror:2", "mirror:3", "rs:4+2", "rs:8+2"})
	completeChoice(cmd, "layout", []string{"log\trows are written once; any redundancy", "linear\tserver after server, in place", "striped\tall servers in turn, in place"})
	noCompletion(cmd, "size")
}

// check refuses what cannot be combined before anything is asked.
func (s *shapeFlags) check() error {
	kind, g := raid.LayoutKind(s.layout), raid.Geometry(s.redundancy)
	if kind != raid.LayoutLog && g != (raid.Geometry{K: 1}) {
		return usageError("--layout %v keeps pages in place and has no redundancy: leave it out, or say --redundancy none", kind)
	}
	if s.size > 0 && s.size < raid.PageSize {
		return usageError("--size %d bytes: a volume has at least a page of %d bytes, as in --size 16GiB", int64(s.size), raid.PageSize)
	}
	if s.size <= 0 {
		return usageError("say how large the volume is: --size 16GiB")
	}
	return nil
}

func (a *app) volumeCreateCommand() *cobra.Command {
	var (
		shape  shapeFlags
		domain choice
		chunk  bytesize.Size
		fill   int
		minAck int
		output choice
	)
	shape.redundancy = geometryFlag{K: 1}
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Reserve memory on servers for a new volume",
		Long: `Creates a volume. All its memory is reserved at once, spare rows included, so
that paging never has to wait for memory. A volume of size S with --redundancy
rs:K+M and --fill F takes S x 100/F x (K+M)/K on the servers.

Members of a group never share a failure domain. Servers say where they are with
labels (dmps server --label rack=r1); a server without the label counts as a
domain of its own host.`,
		Example: `  dmps volume create swap0 --size 16GiB --redundancy rs:4+2
  dmps volume create db --size 4GiB --redundancy mirror:3 --failure-domain rack
  dmps volume create scratch --size 8GiB --redundancy none --layout striped`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := shape.check(); err != nil {
				return err
			}
			if !cmd.Flags().Changed("redundancy") {
				return usageError("say what the volume is to survive: --redundancy rs:4+2, mirror:2, or none")
			}
			if fill == 0 && cmd.Flags().Changed("fill") {
				return usageError("--fill 0: 10 to 95 percent")
			}
			meta, err := a.meta()
			if err != nil {
				return err
			}
			defer meta.Close()
			v, err := meta.CreateVolume(cmd.Context(), metaclient.VolumeSpec{
				Name: args[0], Size: uint64(shape.size),
				Redundancy: raid.Geometry(shape.redundancy), Kind: raid.LayoutKind(shape.layout),
				FailureDomain: domain.value, TargetFill: fill, MinAck: minAck, ChunkBytes: uint64(chunk),
			})
			if err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(a.out, v)
			}
			_, err = fmt.Fprintf(a.out, "created %s: %s, %s, %d groups, %s reserved on servers\nserve it with: dmps attach %s\n",
				v.Name, human(v.Size), v.Redundancy, v.Groups, human(v.Reserved), v.Name)
			return err
		},
	}
	shape.add(cmd)
	f := cmd.Flags()
	domain = newChoice("host", "server", "host", "rack", "zone")
	f.Var(&domain, "failure-domain", "`level` that members of a group must not share: server, host, rack or zone")
	f.Var(&chunk, "chunk-size", "what one server lends to one group, a power of two (default: chosen by size)")
	f.IntVar(&fill, "fill", 0, "`percent` of the slots that hold live pages when the volume is full; less is faster and takes more memory (default 80; linear and striped 100)")
	f.IntVar(&minAck, "min-ack", 0, "least `members` of a row that must hold it before a write is answered when too few servers are left, K or more (default K)")
	completeChoice(cmd, "failure-domain", domain.allowed)
	noCompletion(cmd, "chunk-size", "fill", "min-ack")
	outputFlag(cmd, &output)
	return cmd
}

// exactArgs demands one argument for each name.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("%s takes %s, not %d arguments", cmd.CommandPath(), strings.Join(names, " "), len(args))
		}
		return nil
	}
}

func (a *app) volumeListCommand() *cobra.Command {
	var output choice
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List volumes",
		Example: "  dmps volume list\n  dmps volume list --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.list(cmd, output.value, "no volumes; 'dmps volume create' makes one",
				func(ctx context.Context, m *metaclient.Client) (any, *table, error) {
					volumes, err := m.Volumes(ctx)
					return emptyNotNull(volumes), volumeTable(volumes, paletteFor(a.out)), err
				})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// emptyNotNull makes an absent list an empty one: programs iterate over it.
func emptyNotNull[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func volumeTable(volumes []metaclient.Volume, p palette) *table {
	var t table
	t.row(p.head("VOLUME", "STATE", "REDUNDANCY", "LAYOUT", "SIZE", "GROUPS", "DEGRADED", "CAN LOSE", "ATTACHED TO")...)
	for _, v := range volumes {
		t.row(v.Name, p.state(string(v.State)), v.Redundancy, v.Layout, human(v.Size),
			strconv.FormatUint(v.Groups, 10), strconv.FormatUint(v.DegradedGroups, 10), canLose(&v), holder(v.Lease))
	}
	return &t
}

// canLose says how many more servers the worst group survives.
func canLose(v *metaclient.Volume) string {
	switch {
	case v.RedundancyLeft >= 0:
		return strconv.Itoa(v.RedundancyLeft)
	case outOfReach(v):
		return "data is out of reach"
	}
	return "pages are gone"
}

// refusedLine says which servers have no memory for members of a volume.
func refusedLine(r *client.Report) string {
	var ids []raid.ServerID
	for _, m := range r.Refused {
		ids = append(ids, m.Server)
	}
	slices.Sort(ids)
	return "no memory for " + count(len(r.Refused), "member") + " on " + joinIDs(slices.Compact(ids))
}

// canLoseMore is canLose as a part of a sentence.
func canLoseMore(v *metaclient.Volume) string {
	if v.RedundancyLeft < 0 {
		return canLose(v)
	}
	return "can lose " + canLose(v) + " more"
}

// outOfReach reports whether data waits for servers that may come back with it. If not,
// and no further loss is survived, it is gone.
func outOfReach(v *metaclient.Volume) bool {
	r := v.Report
	switch {
	case v.RedundancyLeft >= 0:
		return false
	case r != nil && len(r.Suspect) > 0:
		return true
	case v.BereftGroups > 0 || r != nil && r.LostPages > 0:
		return false
	}
	answered := r != nil && v.Lease != nil && v.Lease.Remaining > 0 // its client has an answer of every server
	return v.Unknown == 0 || !answered
}

func holder(l *metaclient.Lease) string {
	switch {
	case l == nil:
		return "-"
	case l.Care:
		return "- (rebuilt by " + l.Holder + ")"
	case l.Remaining <= 0:
		return l.Holder + " (lease has run out)"
	}
	return l.Holder
}

func human[T ~uint64 | ~int64](n T) string { return bytesize.Size(n).Human() }

func (a *app) volumeShowCommand() *cobra.Command {
	var output choice
	cmd := &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a volume and where its groups are",
		Example:           "  dmps volume show swap0",
		Args:              exactArgs("NAME"),
		ValidArgsFunction: a.completeNames(volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			meta, err := a.meta()
			if err != nil {
				return err
			}
			defer meta.Close()
			v, layout, err := meta.Volume(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			v = withLive(cmd.Context(), v)
			if output.value == "json" {
				return printJSON(a.out, struct {
					metaclient.Volume
					Members []groupMembers `json:"members"`
				}{v, membersOf(layout)})
			}
			return a.showVolume(v, layout)
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// groupMembers is one group as `volume show` prints it.
type groupMembers struct {
	Group   raid.GroupID  `json:"group"`
	Members []groupMember `json:"members"`
}

type groupMember struct {
	Server raid.ServerID `json:"server"`
	Addr   string        `json:"addr"`
	State  string        `json:"state"`
}

func membersOf(l *raid.Layout) []groupMembers {
	groups := []groupMembers{}
	for _, g := range l.Groups {
		gm := groupMembers{Group: g.ID}
		for _, m := range g.Members {
			gm.Members = append(gm.Members, groupMember{m.Server, m.Addr, m.State.String()})
		}
		groups = append(groups, gm)
	}
	return groups
}

func (a *app) showVolume(v metaclient.Volume, l *raid.Layout) error {
	p := paletteFor(a.out)
	var t table
	add := func(name, value string) { t.row(p.paint(colourBold, name), value) }
	add("volume", v.Name)
	add("state", p.state(string(v.State)))
	add("size", human(v.Size))
	add("redundancy", v.Redundancy+", "+canLoseMore(&v))
	add("layout", fmt.Sprintf("%s, filled up to %d %%, answered by at least %d members", v.Layout, v.TargetFill, v.MinAck))
	add("groups", fmt.Sprintf("%d of %d members, %d degraded, chunks of %s", v.Groups, l.Geometry.Members(), v.DegradedGroups, human(v.ChunkBytes)))
	add("reserved", human(v.Reserved)+" on servers")
	add("placed by", fmt.Sprintf("%s (asked for: %s)", v.PlacedBy, v.FailureDomain))
	add("created", v.Created.Local().Format(time.DateTime))
	add("attached to", holder(v.Lease))
	if v.Lease != nil {
		add("epoch", strconv.FormatUint(uint64(v.Lease.Epoch), 10))
	}
	if r := v.Report; r != nil {
		add("in use", fmt.Sprintf("%s stored, %s one byte value", human(r.MappedPages*raid.PageSize), human(r.FilledPages*raid.PageSize)))
		if r.LostPages > 0 {
			add("lost", p.paint(colourBad, fmt.Sprintf("%d pages answer with an error", r.LostPages)))
		}
		if len(r.Refused) > 0 && v.Lease != nil {
			add("refused", p.paint(colourWarn, refusedLine(r)))
		}
	}
	if v.Unknown > 0 {
		add("gone", p.paint(colourBad, unknownLine(&v)))
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	t = table{}
	t.row(p.head("GROUP", "MEMBERS")...)
	for _, g := range l.Groups {
		var ms []string
		for _, m := range g.Members {
			s := string(m.Server)
			if m.State != raid.MemberInSync {
				s = p.paint(colourWarn, s+" ("+m.State.String()+")")
			}
			ms = append(ms, s)
		}
		t.row(strconv.Itoa(int(g.ID)), strings.Join(ms, " "))
	}
	return t.print(a.out)
}

func (a *app) volumeDeleteCommand() *cobra.Command {
	var (
		agreed consent
		force  bool
	)
	cmd := &cobra.Command{
		Use:               "delete NAME",
		Aliases:           []string{"rm"},
		Short:             "Delete a volume and all that is in it",
		Example:           "  dmps volume delete scratch\n  dmps volume delete scratch --yes   # do not ask",
		Args:              exactArgs("NAME"),
		ValidArgsFunction: a.completeNames(volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			meta, err := a.meta()
			if err != nil {
				return err
			}
			defer meta.Close()
			v, _, err := meta.Volume(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var consequences []string
			if v.Lease != nil && force {
				consequences = append(consequences, "It is attached to "+holder(v.Lease)+": what uses it there gets errors.")
			}
			deed := fmt.Sprintf("delete volume %s (%s, %s) and everything in it", v.Name, human(v.Size), v.Redundancy)
			if err := agreed.ask(a, deed, consequences...); err != nil {
				return err
			}
			err = meta.DeleteVolume(cmd.Context(), args[0], force)
			switch {
			case errors.Is(err, client.ErrInUse):
				return &advised{err, "Stop the client that holds it, or say --force: its requests get errors from then on."}
			case err != nil:
				return err
			}
			_, err = fmt.Fprintf(a.out, "deleted %s\n", v.Name)
			return err
		},
	}
	agreed.flag(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "delete it even while it is attached: its client gets errors from then on")
	return cmd
}

// withLive merges the report that the volume's client gives of itself now.
func withLive(ctx context.Context, v metaclient.Volume) metaclient.Volume {
	if v.Lease == nil || v.Lease.AdminURL == "" {
		return v
	}
	live, err := fetchAdminStatus(ctx, v.Lease.AdminURL)
	if err != nil || live.Volume != v.Name {
		return v // meta has its last report
	}
	return mergeLive(v, live)
}
