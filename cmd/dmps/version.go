package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"dmps/meta/level"
	"dmps/transport"
)

// version is set by the linker (Makefile).
var version = "development"

// build says what this program is.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Protocol int    `json:"protocol"` // of package transport

	Lowest  level.Level `json:"lowest_level"` // of a cluster, that this program knows
	Highest level.Level `json:"highest_level"`
}

func buildInfo() build {
	b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Protocol: transport.Version, Lowest: level.Lowest, Highest: level.Highest}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	return b
}

func (b build) String() string {
	s := "dmps " + b.Version
	if b.Commit != "" {
		s += " (" + b.Commit[:min(12, len(b.Commit))]
		if b.Modified {
			s += ", modified"
		}
		s += ")"
	}
	return fmt.Sprintf("%s, %s %s, wire protocol %d, cluster %s", s, b.Go, b.Platform, b.Protocol, level.This(b.Version).Levels())
}

func (a *app) versionCommand() *cobra.Command {
	var (
		output choice
		all    bool
	)
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say what this program is, and what runs in the cluster",
		Long: `Says which version this program is. With --all the metadata service is asked too: for
the version of each metadata node, memory server and client, for the cluster's level, and
for what is left to do of an upgrade.`,
		Example: "  dmps version\n  dmps version --all\n  dmps version --all --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all {
				return a.printVersions(cmd, output.value)
			}
			if output.value == "json" {
				return printJSON(a.out, buildInfo())
			}
			_, err := fmt.Fprintln(a.out, buildInfo())
			return err
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().BoolVar(&all, "all", false, "of the whole cluster: every node, server and client")
	return cmd
}
