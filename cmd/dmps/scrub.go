package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"dmps/client"
	"dmps/internal/bytesize"
	"dmps/meta/metaclient"
	"dmps/transport/media"
)

const (
	// scrubPoll is how often a scrub that is waited for is asked how far it is.
	scrubPoll = 250 * time.Millisecond
	// scrubSilence is how long its client may be silent meanwhile.
	scrubSilence = 15 * time.Second
)

// defaultScrubRate keeps scrubs out of the way: 16 GiB of RS 4+2 take 11
// minutes.
const defaultScrubRate = 32 * bytesize.MiB

type scrubFlags struct {
	watch, noWait, stop bool
	rate                bytesize.Size
	rateGiven           bool
	output              choice
}

func (a *app) scrubCommand() *cobra.Command {
	var f scrubFlags
	cmd := &cobra.Command{
		Use:     "scrub VOLUME",
		Short:   "Read and verify everything in a volume, and repair what is wrong",
		GroupID: groupManage,
		Long: `Verifies every slot of a volume that is in use: headers, checksums, and parity or
copies against their rows. What is wrong is filled again from the other members
and verified once more. Pages stay where they are: memory servers read their own
memory and each other's, and the volume is served meanwhile.

The client that serves the volume does it, at most one scrub at a time; when one
runs already, this command waits for that one. Interrupting the command does not
end it: --stop does. A volume that is not attached is attached by this command
for as long as it takes, under the holder scrub@HOST.

Attached volumes are scrubbed once a week by themselves ('dmps attach
--scrub-every').

Exit codes: 0 everything is right, 1 not done or not everything could be
verified, 2 something was wrong and is repaired, 3 something is wrong and
cannot be repaired, or pages are lost.`,
		Example: `  dmps scrub swap0 --watch
  dmps scrub swap0 --rate 200MiB      # a second, of each server; 0: as fast as they can
  dmps scrub swap0 --stop
  dmps scrub swap0 --output json | jq '{bad_slots, repaired, slots_skipped}'`,
		Args:              exactArgs("VOLUME"),
		ValidArgsFunction: a.completeNames(volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.rateGiven = cmd.Flags().Changed("rate")
			return a.scrub(cmd.Context(), args[0], f)
		},
	}
	fl := cmd.Flags()
	fl.BoolVarP(&f.watch, "watch", "w", false, "show how far it is")
	fl.BoolVar(&f.noWait, "no-wait", false, "begin it and return at once")
	fl.BoolVar(&f.stop, "stop", false, "end the scrub that runs")
	f.rate = defaultScrubRate
	fl.Var(&f.rate, "rate", "bytes a second that each server reads for it at most; 0: no limit. Of an attached volume without this flag: its --scrub-rate")
	outputFlag(cmd, &f.output)
	noCompletion(cmd, "rate")
	cmd.MarkFlagsMutuallyExclusive("stop", "watch")
	cmd.MarkFlagsMutuallyExclusive("stop", "no-wait")
	cmd.MarkFlagsMutuallyExclusive("stop", "rate")
	cmd.MarkFlagsMutuallyExclusive("no-wait", "watch")
	return cmd
}

func (a *app) scrub(ctx context.Context, volume string, f scrubFlags) error {
	meta, err := a.meta()
	if err != nil {
		return err
	}
	defer meta.Close()
	v, _, err := meta.Volume(ctx, volume)
	if err != nil {
		return err
	}
	if v.Lease == nil || v.Lease.Care { // a caretaker gives way to any attach
		switch {
		case f.stop:
			return fmt.Errorf("volume %s is not attached: no scrub runs", volume)
		case f.noWait:
			return usageError("volume %s is not attached: this command attaches it and has to stay. Leave --no-wait out, or attach it", volume)
		}
		return a.scrubHere(ctx, meta, v, f)
	}
	if v.Lease.AdminURL == "" {
		return fmt.Errorf("volume %s is attached by %s, which has no admin address to ask: attach it with --admin", volume, v.Lease.Holder)
	}
	if f.stop {
		st, err := orderScrubStop(ctx, v.Lease.AdminURL)
		if err != nil {
			return err
		}
		return a.printScrubStopped(volume, st, f.output.value)
	}
	st, running, err := orderScrub(ctx, v.Lease.AdminURL, f)
	if err != nil {
		return err
	}
	if running {
		then := "waiting for that one, at its rate"
		if f.noWait {
			then = "it goes on, at its rate"
		}
		fmt.Fprintf(a.err, "a scrub of %s has been running since %s: %s\n", volume, st.Started.Local().Format(time.DateTime), then)
	}
	if f.noWait {
		return a.printScrubBegun(volume, st, f.output.value)
	}
	show := a.newScrubView(volume, f.watch)
	st, live, err := awaitScrub(ctx, v.Lease.AdminURL, st, show.update)
	show.close()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: the scrub of %s goes on; 'dmps scrub %s --stop' ends it, 'dmps scrub %s --watch' shows it", volume, volume, volume)
	case err != nil:
		return err
	}
	return a.printScrub(scrubResultOf(st, mergeLive(lately(ctx, meta, v), live)), f.output.value)
}

// lately is v as meta knows it now: pages may have been found gone, or their loss
// accepted, since. What was known counts when it does not answer.
func lately(ctx context.Context, meta *metaclient.Client, v metaclient.Volume) metaclient.Volume {
	if now, _, err := meta.Volume(ctx, v.Name); err == nil {
		return now
	}
	return v
}

// awaitScrub polls until a scrub has ended. last is what its client said then.
func awaitScrub(ctx context.Context, adminURL string, st client.ScrubStatus, show func(client.ScrubStatus)) (_ client.ScrubStatus, last adminStatus, err error) {
	started, heard := st.Started, time.Now()
	for {
		live, err := fetchAdminStatus(ctx, adminURL)
		switch {
		case ctx.Err() != nil:
			return st, last, ctx.Err()
		case err != nil && time.Since(heard) > scrubSilence:
			return st, last, fmt.Errorf("the client that scrubs is silent; a restart ends a scrub. Look with 'dmps status', then scrub again: %w", err)
		case err == nil:
			heard, last = time.Now(), live
			now := live.Report.Scrub
			if now == nil || !now.Started.Equal(started) {
				now = live.Report.LastScrub // the next one has begun
			}
			if now == nil || !now.Started.Equal(started) {
				return st, last, errors.New("the client does not know of the scrub any more: it was restarted, or another scrub came after it. Scrub again")
			}
			st = *now
			show(st)
			if !st.Running {
				return st, last, nil
			}
		}
		select {
		case <-ctx.Done():
			return st, last, ctx.Err()
		case <-time.After(scrubPoll):
		}
	}
}

// scrubHere attaches a volume that nobody has, scrubs it and lets it go.
func (a *app) scrubHere(ctx context.Context, meta *metaclient.Client, v metaclient.Volume, f scrubFlags) (err error) {
	log := a.logger()
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("finding the host's name for the lease: %w", err)
	}
	side, adminURL, err := listenAdmin(ctx, ownSocket, v.Name)
	if err != nil {
		return err
	}
	defer side.Close()
	holder := "scrub@" + host
	_, shape, err := meta.Volume(ctx, v.Name)
	if err != nil {
		return err
	}
	prepared, err := client.Prepare(client.Config{
		Layout: shape, Meta: meta, Dialer: &media.Dialer{Log: log}, AllowSwappable: true, // nobody swaps to it
		Holder: holder, LastScrub: lastScrub(v), Logger: log,
	})
	if err != nil {
		return err
	}
	layout, lease, err := meta.Attach(ctx, client.AttachRequest{Volume: v.Name, Holder: holder, AdminURL: adminURL})
	if err != nil {
		prepared.Close()
		return err
	}
	fmt.Fprintf(a.err, "%s is not attached: attaching it here for the scrub\n", v.Name)
	vol, err := prepared.Open(ctx, layout, lease)
	if err != nil {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), leavePatience)
		defer cancel()
		return errors.Join(err, meta.Detach(bye, layout.Volume, layout.Epoch))
	}
	defer func() { err = errors.Join(err, closeVolume(vol)) }()
	adm := newAdmin(false, log)
	adm.answer("/status", func() any {
		return adminStatus{
			Volume: v.Name, Epoch: layout.Epoch, Redundancy: layout.Geometry.String(), Layout: layout.Kind.String(),
			SizeBytes: uint64(vol.Size()), Groups: len(layout.Groups), Holder: holder, PID: os.Getpid(), Version: version, Report: vol.Report(),
		}
	})
	adm.takeScrubs(vol, int64(f.rate))
	defer adm.serve(side, log)()

	show := a.newScrubView(v.Name, f.watch)
	watched := make(chan struct{})
	watching, end := context.WithCancel(ctx)
	go func() {
		defer close(watched)
		for {
			if st := vol.Report().Scrub; st != nil {
				show.update(*st)
			}
			select {
			case <-watching.Done():
				return
			case <-time.After(scrubPoll):
			}
		}
	}()
	st, err := vol.Scrub(ctx, client.ScrubOptions{Rate: int64(f.rate)})
	end()
	<-watched
	show.close()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %d of %d rows of %s were scrubbed, %d slots found wrong, %d of them repaired", st.RowsDone, st.RowsTotal, v.Name, st.BadSlots, st.Repaired)
	case err != nil && !errors.Is(err, client.ErrScrubStopped):
		return err
	}
	return a.printScrub(scrubResultOf(st, mergeLive(lately(ctx, meta, v), adminStatus{Report: vol.Report()})), f.output.value)
}

// lastScrub is the last one that meta knows of.
func lastScrub(v metaclient.Volume) *client.ScrubStatus {
	if v.Report == nil {
		return nil
	}
	return v.Report.LastScrub
}
