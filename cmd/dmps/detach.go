package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"dmps/internal/swapctl"
)

// Times of detach.
const (
	swapoffShow    = 500 * time.Millisecond // how often progress is shown
	detachPatience = 30 * time.Second       // for the client to end
)

func (a *app) detachCommand() *cobra.Command {
	var (
		output choice
		agree  consent
		force  bool
		url    string
	)
	cmd := &cobra.Command{
		Use:     "detach VOLUME",
		Short:   "End the use of a volume on this machine",
		GroupID: groupRoles,
		Long: `Ends the attach of a volume that runs on this machine. Does the kernel swap to
its device, then that ends first: what lies there comes back into memory or goes
to other swap space. When it does not fit, nothing is done.

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
				if err := a.endSwap(ctx, &d, agree, force); err != nil {
					return err
				}
			}
			if err := orderDetach(ctx, base); err != nil {
				return err
			}
			if err := gone(ctx, about.PID); err != nil {
				return err
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
	cmd.Flags().StringVar(&url, "admin", "", "admin `URL` of the attach (default: as the metadata service knows it)")
	noCompletion(cmd, "admin")
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
func (a *app) endSwap(ctx context.Context, d *detached, agree consent, force bool) error {
	space, err := swapctl.Find(d.Device)
	if err != nil || space == nil {
		return err
	}
	fit, err := swapctl.Measure(d.Device)
	if err != nil {
		return err
	}
	d.WasSwap, d.CameBack, d.Available = true, fit.Used, fit.Available
	say := fmt.Sprintf("%s must come back from %s; %s of memory is available, and %s of other swap space",
		human(uint64(fit.Used)), d.Device, human(uint64(fit.Available)), human(uint64(fit.Elsewhere)))
	if !fit.Fits() && !force {
		return &advised{fmt.Errorf("ending swap: it does not fit: %s", say),
			"End programs, or add swap space. --force tries all the same: the kernel may kill programs for it."}
	}
	if err := agree.ask(a, "end swapping to "+d.Device, say+"."); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "swapoff: %s.\n", say)
	return a.swapoff(ctx, d.Device, fit.Used)
}

// swapoff runs on a thread of its own, which a signal takes out of the kernel
// when ctx ends.
func (a *app) swapoff(ctx context.Context, path string, used int64) error {
	tid, over := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: it ends with the goroutine
		tid <- unix.Gettid()
		over <- swapctl.Off(path)
	}()
	thread := <-tid
	show := time.NewTicker(swapoffShow)
	defer show.Stop()
	done := ctx.Done()
	for {
		select {
		case err := <-over:
			if ctx.Err() != nil && errors.Is(err, unix.EINTR) {
				return fmt.Errorf("%w: a part is back, %s is used on", err, path)
			}
			return err
		case <-done:
			done = nil
			// SIGURG does nothing else: the runtime uses it for itself.
			if err := unix.Tgkill(os.Getpid(), thread, unix.SIGURG); err != nil {
				return fmt.Errorf("interrupting swapoff: %w", err)
			}
		case <-show.C:
			if space, err := swapctl.Find(path); err == nil && space != nil && isTerminal(a.err) {
				fmt.Fprintf(a.err, "\r%s of %s left \x1b[K", human(uint64(space.Used)), human(uint64(used)))
			}
		}
	}
}

// gone waits for a process of this machine to end.
func gone(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, detachPatience)
	defer cancel()
	for {
		if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the client (process %d) was told to end and has not after %v", pid, detachPatience)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
