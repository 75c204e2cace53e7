package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// six has no server to spare: three that lose their memory are one more than it
// can bear.
var six = scheme{redundancy: "rs:4+2", servers: 6, m: 2, volumeMiB: 128, serverMiB: 72}

// cycled has the client killed while three of six servers lose power under swap.
// The pages that are gone must not come back as anything else: who needs one dies
// of SIGBUS, at once when that was agreed to, and waits until then.
func cycled(kind string) func(context.Context, *Guest) error {
	return func(ctx context.Context, g *Guest) error {
		w, err := swapTo(ctx, g, kind, six)
		if err != nil {
			return err
		}
		if err := w.lose(0, 1, 2); err != nil {
			return err
		}
		if err := w.attach.signal(syscall.SIGKILL); err != nil {
			return err
		}
		if err := w.replace(0, 1, 2); err != nil {
			return err
		}
		// Without a word from the operator there is no device, and nobody dies.
		if err := until(ctx, 3*time.Minute, "an attach that says what is gone", func() error { return w.refuses(ctx) }); err != nil {
			return err
		}
		if err := w.hog.alive(); err != nil {
			return fmt.Errorf("before anybody agreed to the loss: %w", err)
		}
		if err := w.launchAttach("auto", "--swap", "--accept-data-loss", "--yes"); err != nil {
			return err
		}
		if err := until(ctx, 2*time.Minute, "serving what is left", func() error { return w.swapped(ctx) }); err != nil {
			return err
		}
		select {
		case <-w.hog.over:
		case <-time.After(3 * time.Minute):
			return errors.New("the hog neither dies nor gets its pages")
		}
		said := w.hog.tail(1 << 20) // Go's runtime says which signal it was
		bus := strings.Contains(said, "SIGBUS") || strings.Contains(fmt.Sprint(w.hog.err), "bus error")
		fmt.Printf("the hog after %d turns: %v, of SIGBUS: %v\n", w.hog.turns(), w.hog.err, bus)
		if !bus || strings.Contains(said, "hog: page") {
			return fmt.Errorf("a page that is gone came back as something else: %s", w.hog.tail(1000))
		}
		if out, err := output(ctx, dmps, "--meta", metaURL, "status"); err == nil {
			return fmt.Errorf("status says nothing of a loss: %s", out)
		} else {
			fmt.Println(err)
		}
		return w.detach(ctx)
	}
}

// refuses is nil when an attach refuses and says what could be done. As long as the
// servers have not told the metadata service that they begin anew, nobody knows
// whether they are gone or away.
func (w *swapping) refuses(ctx context.Context) error {
	if err := w.launchAttach("auto", "--swap"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err := w.attach.wait(ctx)
	if err == nil || ctx.Err() != nil {
		return fmt.Errorf("an attach with three of six members gone does not refuse: %v", err)
	}
	said := w.attach.tail(500)
	if !strings.Contains(said, "--accept-data-loss") {
		return errors.New(said)
	}
	fmt.Printf("the next client: %s\n", said)
	return nil
}
