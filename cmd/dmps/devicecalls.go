package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"

	"dmps/client/nbddev"
	"dmps/client/ublk"
	"dmps/internal/blockdev"
	"dmps/internal/swapctl"
)

// deviceCalls are what this program does as another process of its own, because it
// may wait for the device that the first one serves.
func deviceCalls() map[string]blockdev.Call {
	calls := map[string]blockdev.Call{"format": callFormat, "swapon": callSwapon}
	maps.Copy(calls, blockdev.Calls)
	maps.Copy(calls, nbddev.Calls)
	maps.Copy(calls, ublk.Calls)
	return calls
}

// serveDeviceCall makes a call when args are of one.
func serveDeviceCall(args []string, in io.Reader, out io.Writer) (code int, served bool) {
	if len(args) == 0 || args[0] != blockdev.Command {
		return 0, false
	}
	return blockdev.ServeCall(deviceCalls(), args[1:], in, out), true
}

// callFormat takes PATH SIZE LABEL BOOT FORCE. Its answer is whether the swap space
// was made now, and whether what lies in it is dead.
func callFormat(args []string) (answer string, release func() error, err error) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return "", nil, fmt.Errorf("the size of %s: %w", args[0], err)
	}
	// Nobody else may use it: O_EXCL on a block device claims it.
	f, err := os.OpenFile(args[0], os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return "", nil, err
	}
	p, err := swapctl.Format(f, size, args[2], args[3], args[4] == "true")
	if err = errors.Join(err, f.Close()); err != nil {
		return "", nil, err
	}
	return fmt.Sprint(p.Made, p.Dead), nil, nil
}

// swaponArgs are those of the call, which swaponOf reads.
func swaponArgs(path string, priority int, dead bool) []string {
	return []string{path, strconv.Itoa(priority), strconv.FormatBool(dead)}
}

func swaponOf(args []string) (path string, priority int, dead bool, err error) {
	priority, err = strconv.Atoi(args[1])
	if err != nil {
		return "", 0, false, fmt.Errorf("the priority of %s: %w", args[0], err)
	}
	return args[0], priority, args[2] == strconv.FormatBool(true), nil
}

// callSwapon takes PATH PRIORITY DEAD.
func callSwapon(args []string) (answer string, release func() error, err error) {
	path, priority, dead, err := swaponOf(args)
	if err != nil {
		return "", nil, err
	}
	return "", nil, swapctl.On(path, priority, dead)
}
