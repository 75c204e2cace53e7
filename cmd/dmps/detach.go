package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"dmps/client/hostdev"
	"dmps/internal/harden"
	"dmps/internal/swapctl"
)

// detachPatience is how long the client may take to end.
const detachPatience = 30 * time.Second

func (a *app) detachCommand() *cobra.Command {
	var (
		output choice
		agree  consent
		force  bool
		wait   time.Duration
		url    string
	)
	cmd := &cobra.Command{
		Use:     "detach VOLUME",
		Short:   "End the use of a volume on this machine",
		GroupID: groupRoles,
		Long: `Ends the attach of a volume that runs on this machine. Does the kernel swap to
its device, then that ends first: what lies there comes back into memory or goes
to other swap space. When it does not fit, nothing is done; --wait gives programs
time to end first, as at a shutdown.

A device that is mounted, or part of another device, is not taken away: unmount it
first. What is in the volume stays in it.

An interrupt ends the swapoff: what is not back stays in the volume, which is
used on.`,
		Example: `  dmps detach swap0
  dmps detach swap0 --yes --output json`,
		Args:              exactArgs("VOLUME"),
		ValidArgsFunction: a.completeNames(volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			about, base, err := a.attachedHere(ctx, args[0], url)
			if err != nil {
				return err
			}
			d := detached{Volume: args[0], Device: about.Device}
			if d.Device != "" {
				if err := a.endSwap(ctx, &d, agree, force, wait); err != nil {
					return err
				}
			}
			if err := orderDetach(ctx, base); err != nil {
				return err
			}
			if err := gone(ctx, about, base); err != nil {
				return err
			}
			if d.Device != "" {
				// Somebody may have begun to use it when the client had just looked.
				if err := lastly(ctx, func() error { return remains(about.Identity, d.Device, hostdev.List) }); err != nil {
					return err
				}
				if err := harden.Forget(attachCgroup(d.Volume)); err != nil {
					a.logger().Warn("something is left of the attach", "error", err)
				}
			}
			if output.value == "json" {
				return printJSON(a.out, d)
			}
			return d.print(a.out)
		},
	}
	outputFlag(cmd, &output)
	agree.flag(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "end swapping even when what lies there does not fit into memory: processes may be killed for it")
	cmd.Flags().DurationVar(&wait, "wait", 0, "when it does not fit, how long to wait until it does")
	cmd.Flags().StringVar(&url, "admin", "", "admin `URL` of the attach (default: as an attach of this host left it, or the metadata service knows it)")
	noCompletion(cmd, "admin", "wait")
	return cmd
}

// detached is what was ended.
type detached struct {
	Volume    string `json:"volume"`
	Device    string `json:"device,omitempty"`
	WasSwap   bool   `json:"was_swap"`
	CameBack  int64  `json:"bytes_back"` // that lay in the volume and came back
	Available int64  `json:"bytes_available_before"`
}

func (d *detached) print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s is not attached here any more", d.Volume)
	if err == nil && d.WasSwap {
		_, err = fmt.Fprintf(w, "; %s came back from it", human(uint64(d.CameBack)))
	}
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}

// attachedHere finds the attach of a volume, which must run on this machine.
func (a *app) attachedHere(ctx context.Context, volume, base string) (adminStatus, string, error) {
	if base == "" {
		if about, base, found := metHere(ctx, runDir, volume); found {
			return about, base, nil
		}
		meta, err := a.meta()
		if err != nil {
			return adminStatus{}, "", err
		}
		defer meta.Close()
		v, _, err := meta.Volume(ctx, volume)
		if err != nil {
			return adminStatus{}, "", err
		}
		if v.Lease == nil || v.Lease.AdminURL == "" {
			return adminStatus{}, "", &advised{fmt.Errorf("volume %s is not attached, or its attach has no admin address", volume),
				"If it runs here, end its process; name its address with --admin if it has one."}
		}
		base = v.Lease.AdminURL
	}
	about, err := fetchAdminStatus(ctx, base)
	switch {
	case err != nil:
		return adminStatus{}, "", err
	case about.Volume != volume:
		return adminStatus{}, "", fmt.Errorf("the attach at %s is of volume %s, not %s", base, about.Volume, volume)
	case about.Boot == "" || about.Boot != bootID():
		return adminStatus{}, "", fmt.Errorf("volume %s is attached on another machine, by %s: detach it there", volume, about.Holder)
	}
	return about, base, nil
}

// endSwap ends swapping to the device, if the kernel does.
func (a *app) endSwap(ctx context.Context, d *detached, agree consent, force bool, wait time.Duration) error {
	space, err := swapctl.Find(d.Device)
	if err != nil || space == nil {
		return err
	}
	fit, err := a.room(ctx, wait, func() (swapctl.Fit, error) { return swapctl.Measure(d.Device) })
	if err != nil {
		return err
	}
	d.WasSwap, d.CameBack, d.Available = true, fit.Used, fit.Available
	say := sayFit(d.Device, fit)
	if !fit.Fits() && !force {
		return &advised{fmt.Errorf("ending swap: it does not fit: %s", say),
			"End programs, or add swap space. --force tries all the same: the kernel may kill programs for it."}
	}
	if err := agree.ask(a, "end swapping to "+d.Device, say+"."); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "swapoff: %s.\n", say)
	return a.swapoff(ctx, d.Device, fit.Used, swapctl.Off)
}

func sayFit(device string, fit swapctl.Fit) string {
	return fmt.Sprintf("%s must come back from %s; %s of memory is available, and %s of other swap space",
		human(uint64(fit.Used)), device, human(uint64(fit.Available)), human(uint64(fit.Elsewhere)))
}

// room measures until what is in the swap space fits, or wait is over.
func (a *app) room(ctx context.Context, wait time.Duration, measure func() (swapctl.Fit, error)) (swapctl.Fit, error) {
	began, said := time.Now(), false
	for {
		fit, err := measure()
		if err != nil || fit.Fits() || time.Since(began) >= wait {
			return fit, err
		}
		if !said {
			fmt.Fprintf(a.err, "waiting up to %v for room: %s must come back, %s of memory is available.\n", wait, human(uint64(fit.Used)), human(uint64(fit.Available)))
			said = true
		}
		select {
		case <-ctx.Done():
			return fit, ctx.Err()
		case <-time.After(roomEvery):
		}
	}
}

// roomEvery is how often room is measured again.
const roomEvery = 500 * time.Millisecond

// keptPatience is how long the device may be there after the client: udev opens
// what somebody has closed, and the kernel waits for it.
const keptPatience = 5 * time.Second

// lastly looks until it finds nothing wrong, or for too long.
func lastly(ctx context.Context, look func() error) error {
	for began := time.Now(); ; {
		err := look()
		if err == nil || time.Since(began) >= keptPatience {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// pidSpace is the pid namespace of this process; "": nobody can tell.
func pidSpace() string {
	in, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return in
}

// gone waits for a client of this machine to end. One in another pid namespace (a
// container) has another number here: it is gone when nobody answers for it.
func gone(ctx context.Context, about adminStatus, base string) error {
	ctx, cancel := context.WithTimeout(ctx, detachPatience)
	defer cancel()
	here := about.PIDSpace == "" || about.PIDSpace == pidSpace()
	for {
		if here {
			if err := unix.Kill(about.PID, 0); errors.Is(err, unix.ESRCH) {
				return nil
			}
		} else if now, err := fetchAdminStatus(ctx, base); ctx.Err() == nil && (err != nil || now.PID != about.PID || !now.Started.Equal(about.Started)) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the client (process %d) was told to end and has not after %v", about.PID, detachPatience)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
