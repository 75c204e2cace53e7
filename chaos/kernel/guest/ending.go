package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// runEnd ends the guest in one of the ways in which guests end, for the tests
// of what tells them apart.
func runEnd(ctx context.Context, args []string) error {
	switch fmt.Sprint(args) {
	case "[status]":
		os.Exit(3)
	case "[panic]":
		return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	case "[vanish]":
		return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "[hang]":
		<-ctx.Done()
	}
	return fmt.Errorf("end status|panic|vanish|hang")
}
