package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"dmps/meta/level"
	"dmps/meta/metaclient"
)

// roleBuild is a process of the cluster and which version it is.
type roleBuild struct {
	Role string `json:"role"` // meta, server or client
	Name string `json:"name"` // of a client: its volume
	metaclient.Build
}

func (r roleBuild) String() string {
	if r.Role == "meta" {
		return r.Name
	}
	return r.Role + " " + r.Name
}

// rolesOf lists all processes that told the metadata their version.
func rolesOf(st *metaclient.Status) []roleBuild {
	out := []roleBuild{}
	for _, n := range st.Meta {
		out = append(out, roleBuild{"meta", n.Name, n.Build})
	}
	for _, s := range st.Servers {
		out = append(out, roleBuild{"server", string(s.ID), s.Build})
	}
	for _, v := range st.Volumes {
		if v.Lease != nil && !v.Lease.Care {
			out = append(out, roleBuild{"client", v.Name, v.Lease.Build})
		}
	}
	return out
}

// upgrade is how far an upgrade is.
type upgrade struct {
	Mixed    bool     `json:"mixed"`               // not all processes are of one version
	Possible uint32   `json:"possible_level"`      // the highest that all metadata nodes know
	Versions []string `json:"versions,omitempty"`  // if mixed: who runs which
	Old      []string `json:"too_old,omitempty"`   // servers and clients that do not know the cluster's level
	Next     string   `json:"next_step,omitempty"` // for people
}

func upgradeOf(st *metaclient.Status) (u upgrade) {
	roles := rolesOf(st)
	is := level.Level(st.Level)
	newest, all := is, level.Level(0)
	by := map[metaclient.Build][]string{}
	var order []metaclient.Build
	for _, r := range roles {
		if _, ok := by[r.Build]; !ok && r.Build != (metaclient.Build{}) { // else it has not said yet
			order = append(order, r.Build)
		}
		by[r.Build] = append(by[r.Build], r.String())
		switch highest := max(r.Highest, 1); {
		case r.Role == "meta":
			newest = max(newest, highest)
			if all == 0 || highest < all {
				all = highest
			}
		case !r.Knows(is):
			u.Old = append(u.Old, fmt.Sprintf("%v (%v)", r, r.Build))
		}
	}
	u.Possible, u.Mixed = uint32(all), len(order) > 1
	if u.Mixed {
		for _, b := range order {
			u.Versions = append(u.Versions, fmt.Sprintf("%v: %s", b, strings.Join(by[b], ", ")))
		}
	}
	var lack []string
	for _, r := range roles {
		if r.Role == "meta" && !r.Knows(newest) {
			lack = append(lack, r.Name)
		}
	}
	switch {
	case newest == is:
	case len(lack) > 0:
		u.Next = fmt.Sprintf("the cluster is at level %d: install the newer version on %s, then raise it to level %d with 'dmps meta raise'", is, strings.Join(lack, ", "), newest)
	default:
		u.Next = fmt.Sprintf("all voters know level %d, the cluster is at level %d: raise it with 'dmps meta raise' when no older version is to come back", newest, is)
	}
	return u
}

// lines say it for people: nothing, when there is nothing to do.
func (u upgrade) lines() (out []string) {
	for _, v := range u.Versions {
		out = append(out, "versions differ: "+v)
	}
	if len(u.Old) > 0 {
		out = append(out, "too old for the cluster's level, install a newer version: "+strings.Join(u.Old, ", "))
	}
	if u.Next != "" {
		out = append(out, u.Next)
	}
	return out
}

// printVersions prints what `dmps version --all` shows.
func (a *app) printVersions(cmd *cobra.Command, output string) error {
	m, err := a.metaSoon(cmd)
	if err != nil {
		return err
	}
	defer m.Close()
	st, err := m.Status(cmd.Context())
	if err != nil {
		return err
	}
	u, roles := upgradeOf(st), rolesOf(st)
	if output == "json" {
		return printJSON(a.out, struct {
			Program build       `json:"program"`
			Cluster string      `json:"cluster"`
			Level   uint32      `json:"level"`
			Roles   []roleBuild `json:"roles"`
			Upgrade upgrade     `json:"upgrade"`
		}{buildInfo(), st.Cluster, st.Level, roles, u})
	}
	p := paletteFor(a.out)
	var t table
	t.row(p.head("ROLE", "NAME", "VERSION", "LEVELS")...)
	for _, r := range roles {
		said := r.Version
		if said == "" {
			said = "unknown"
		}
		t.row(r.Role, r.Name, said, r.Range())
	}
	fmt.Fprintf(a.out, "%v\ncluster %s is at level %d\n\n", buildInfo(), st.Cluster, st.Level)
	if err := t.print(a.out); err != nil {
		return err
	}
	for i, l := range u.lines() {
		if i == 0 {
			fmt.Fprintln(a.out)
		}
		fmt.Fprintln(a.out, l)
	}
	return nil
}

func (a *app) metaRaiseCommand() *cobra.Command {
	var (
		output choice
		yes    consent
	)
	cmd := &cobra.Command{
		Use:   "raise [LEVEL]",
		Short: "Have the cluster use what a newer version brings, for good",
		Long: `Raises the level of the cluster: what its metadata may hold. A cluster stays at its
level while its nodes are upgraded, so that nodes of both versions work side by side and
the older one can come back. Only then it is raised, by this command.

It is refused unless all metadata nodes answer and know the level, and names those that
do not. Without LEVEL it is the highest that any node knows.

It cannot be undone. A node of a version that does not know the level refuses to start
from then on, and to join; so does a restored backup with it. Memory servers and clients
of older versions go on; 'dmps version --all' names them.`,
		Example: "  dmps version --all\n  dmps meta raise\n  dmps meta raise 2 --yes",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to := uint64(0)
			if len(args) > 0 {
				var err error
				if to, err = strconv.ParseUint(args[0], 10, 32); err != nil || to == 0 {
					return usageError("%q is no level: use a number from 1 on", args[0])
				}
			}
			m, err := a.meta()
			if err != nil {
				return err
			}
			defer m.Close()
			st, err := m.Status(cmd.Context())
			if err != nil {
				return err
			}
			deed := fmt.Sprintf("raise cluster %s from level %d", st.Cluster, st.Level)
			if to > 0 {
				deed += fmt.Sprintf(" to %d", to)
			}
			if err := yes.ask(a, deed, slices.Concat(upgradeOf(st).lines(), []string{"It cannot be undone: metadata nodes of older versions cannot take part any more."})...); err != nil {
				return err
			}
			was, is, err := m.RaiseLevel(cmd.Context(), uint32(to))
			if err != nil {
				return err
			}
			if output.value == "json" {
				return printJSON(a.out, struct {
					Was   uint32 `json:"was"`
					Level uint32 `json:"level"`
				}{was, is})
			}
			text := fmt.Sprintf("the cluster was raised from level %d to %d", was, is)
			if was == is {
				text = fmt.Sprintf("the cluster is at level %d already, the highest that its nodes know", is)
			}
			_, err = fmt.Fprintln(a.out, text)
			return err
		},
	}
	outputFlag(cmd, &output)
	yes.flag(cmd)
	return cmd
}
