// Measure runs in the guest and measures one figure of package paper. It is also
// the processes beside: a worker with an array, and the sink of messages.
//
//	measure figure NAME
//	measure worker BYTES
//	measure messages NETWORK ADDRESS
//
// What the guest has is in the environment: PAPER_DMPS, PAPER_CC1, PAPER_DISK are
// paths; PAPER_QUICK, PAPER_DEVICE as in bed.Bed.
package main

import (
	"context"
	"dmps/chaos/figures"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"dmps/chaos/research/paper"
	"dmps/chaos/research/paper/bed"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	usage := fmt.Errorf("%q is not understood", args)
	if len(args) < 2 {
		return usage
	}
	switch args[0] {
	case "figure":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		b := bed.Bed{
			Self: "/proc/self/exe", Dmps: os.Getenv("PAPER_DMPS"), CC1: os.Getenv("PAPER_CC1"), Disk: os.Getenv("PAPER_DISK"),
			Dir: "/run/paper", Quick: os.Getenv("PAPER_QUICK") != "", Only: os.Getenv("PAPER_DEVICE"),
		}
		if self, err := os.Executable(); err == nil {
			b.Self = self
		}
		return b.Run(ctx, args[1], figures.NewReport(os.Stdout, args[1]))
	case "worker":
		n, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		return paper.Work(n, os.Stdin, os.Stdout)
	case "messages":
		if len(args) != 3 {
			return usage
		}
		l, err := net.Listen(args[1], args[2])
		if err != nil {
			return err
		}
		return paper.ServeMessages(l)
	}
	return usage
}
