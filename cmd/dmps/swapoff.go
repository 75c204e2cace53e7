package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"dmps/internal/swapctl"
)

// swapoffShow is how often the progress of swapoff is shown.
const swapoffShow = 500 * time.Millisecond

// swapoff calls off for the swap space at path, on a thread of its own, which a
// signal takes out of the kernel when ctx ends. used is what lies there, bytes.
func (a *app) swapoff(ctx context.Context, path string, used int64, off func(path string) error) error {
	tid, over := make(chan int, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: it ends with the goroutine
		tid <- unix.Gettid()
		err := off(path)
		for errors.Is(err, unix.EINTR) && ctx.Err() == nil {
			err = off(path) // a signal of the runtime's own, which preempts with it: nobody asked
		}
		over <- err
	}()
	thread := <-tid
	show := time.NewTicker(swapoffShow)
	defer show.Stop()
	done := ctx.Done()
	for {
		select {
		case err := <-over:
			if isTerminal(a.err) {
				fmt.Fprint(a.err, "\r\x1b[K")
			}
			if ctx.Err() != nil && errors.Is(err, unix.EINTR) {
				return fmt.Errorf("%w: a part is back, %s is used on", err, path)
			}
			return err
		case <-done:
			done = nil // from here on the ticker signals, should this one come too early
			if err := interrupt(thread); err != nil {
				return err
			}
		case <-show.C:
			if ctx.Err() != nil {
				if err := interrupt(thread); err != nil {
					return err
				}
			} else if space, err := swapctl.Find(path); err == nil && space != nil && isTerminal(a.err) {
				fmt.Fprintf(a.err, "\r%s of %s left \x1b[K", human(uint64(space.Used)), human(uint64(used)))
			}
		}
	}
}

// interrupt takes a thread of this process out of a system call, by SIGURG: the
// runtime uses it for itself, so that it does nothing else. A thread that has
// ended needs no signal.
func interrupt(thread int) error {
	if err := unix.Tgkill(os.Getpid(), thread, unix.SIGURG); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("interrupting swapoff: %w", err)
	}
	return nil
}
