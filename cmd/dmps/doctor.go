package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"dmps/client/hostdev"
	"dmps/client/nbddev"
	"dmps/client/ublk"
	"dmps/internal/capability"
	"dmps/internal/doctor"
	"dmps/internal/exitcode"
	"dmps/internal/harden"
)

func (a *app) doctorCommand() *cobra.Command {
	var (
		output choice
		device string
		all    bool
	)
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "Check whether this machine can swap to a volume",
		GroupID: groupRoles,
		Long: `Looks at what a machine needs that swaps to dmps: kernel, drivers, rights,
limits, settings of memory and of devices, memory servers on the same machine.
For what is not as it should be it says why that matters and how to mend it.
Nothing is changed.

Run it as the user, and with the rights, under which attach will run. The exit
code is 0 when nothing was found, and 1 when something was found without which
attach refuses or the machine may hang.`,
		Example: `  dmps doctor
  dmps doctor --device nbd
  dmps doctor --output json | jq '.[] | select(.verdict != "ok")'`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if device != autoDevice && device != "nbd" && device != "ublk" && !strings.HasPrefix(device, "/dev/") {
				return usageError("--device %s: nbd, ublk or auto", device)
			}
			h, err := thisHost(kindOf(device))
			if err != nil {
				return err
			}
			found := doctor.Examine(h)
			if output.value == "json" {
				err = printJSON(a.out, found)
			} else {
				err = printFindings(a.out, found, all)
			}
			if err == nil && doctor.Worst(found) == doctor.Failure {
				err = &exitError{code: exitcode.Failure}
			}
			return err
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&device, "device", autoDevice, "the front end that will be used: `nbd, ublk or auto`")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show what is well, too")
	return cmd
}

// kindOf is the front end that a --device asks for.
func kindOf(device string) string {
	switch {
	case device == autoDevice:
		return doctor.Auto
	case isUblk(device):
		return doctor.Ublk
	}
	return doctor.NBD
}

func thisHost(kind string) (*doctor.Host, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("which kernel is this: %w", err)
	}
	var limit, priority unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return nil, fmt.Errorf("how much may be locked: %w", err)
	}
	if err := unix.Getrlimit(unix.RLIMIT_RTPRIO, &priority); err != nil {
		return nil, fmt.Errorf("how a thread may be scheduled: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("which program is this: %w", err)
	}
	return &doctor.Host{
		Root: os.DirFS("/"), Release: unix.ByteSliceToString(name.Release[:]), Capable: capability.Has,
		Memlock: limit.Max, RTPrio: priority.Cur, Program: program, Want: kind, Ublk: ublk.Supported, NBD: nbddev.Supported, Devices: hostdev.List,
		Protect: func() error { return harden.Try(doctor.Priority) },
	}, nil
}

func printFindings(w io.Writer, found []doctor.Finding, all bool) error {
	var text strings.Builder
	count := map[doctor.Verdict]int{}
	for _, f := range found {
		count[f.Verdict]++
		switch {
		case f.Verdict != doctor.OK:
			fmt.Fprintf(&text, "%-8s %s: %s\n         why: %s\n         fix: %s\n", f.Verdict, f.Check, f.Found, f.Why, f.Fix)
		case all:
			fmt.Fprintf(&text, "%-8s %s: %s\n", f.Verdict, f.Check, f.Found)
		}
	}
	fmt.Fprintf(&text, "%d checks well, %d warnings, %d failures\n", count[doctor.OK], count[doctor.Warning], count[doctor.Failure])
	_, err := io.WriteString(w, text.String())
	return err
}
