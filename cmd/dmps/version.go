package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

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
}

func buildInfo() build {
	b := build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Protocol: transport.Version}
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
	return fmt.Sprintf("%s, %s %s, wire protocol %d", s, b.Go, b.Platform, b.Protocol)
}

func (a *app) versionCommand() *cobra.Command {
	var output choice
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Say what this program is",
		Example: "  dmps version\n  dmps version --output json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if output.value == "json" {
				return printJSON(a.out, buildInfo())
			}
			_, err := fmt.Fprintln(a.out, buildInfo())
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
}
