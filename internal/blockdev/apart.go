package blockdev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process that serves a block device must not wait for it. Killed meanwhile it
// cannot end before the next one answers, and it keeps the files that the next one
// needs until it has ended. So whatever can wait for a device (opening it, reading
// it, swapping to it, setting its queue) is done by another process: the same program,
// executed with Command, which holds no file of the one that serves.

// Command is the first argument of the program that makes a call apart.
const Command = "device-call"

// image is the program of whoever executes it. By its path it may be another one since
// an upgrade, which speaks otherwise, or none.
const image = "/proc/self/exe"

// inCall is set in the environment of a process that makes a call.
const inCall = "DMPS_DEVICE_CALL"

// A Call is what such a process does. What it took it keeps until release, which
// may be nil. answer goes to the one that serves.
type Call func(args []string) (answer string, release func() error, err error)

// Calls are this package's: "claim" PATH and "unthrottle" SYSFS NAME.
var Calls = map[string]Call{
	"claim": func(args []string) (string, func() error, error) {
		release, err := claim(args[0])
		return "", release, err
	},
	"unthrottle": func(args []string) (string, func() error, error) {
		return "", nil, unthrottle(args[0], args[1])
	},
}

// reply is what comes back, as JSON. An error has the words of all that it wraps, so
// that errors.Is works with those that have a value of their own.
type reply struct {
	Answer string
	Err    string
	Wraps  []string
}

// farError is an error of the other process.
type farError struct{ r reply }

func (e *farError) Error() string { return e.r.Err }

func (e *farError) Is(target error) bool { return slices.Contains(e.r.Wraps, target.Error()) }

// ServeCall makes the call that args name, which are those behind Command, and keeps
// what it took until in ends. It returns the exit code.
func ServeCall(calls map[string]Call, args []string, in io.Reader, out io.Writer) int {
	if len(args) == 0 || calls[args[0]] == nil {
		return 2
	}
	answer, release, err := calls[args[0]](args[1:])
	r := reply{Answer: answer, Wraps: words(err)}
	if err != nil {
		r.Err = err.Error()
	}
	failed := json.NewEncoder(out).Encode(r) // nobody hears it: what was taken is given back all the same
	_, _ = io.Copy(io.Discard, in)           // until nobody needs it any more
	if release != nil {
		failed = errors.Join(failed, release())
	}
	if failed != nil {
		return 1
	}
	return 0
}

// words are those of all errors in the tree of err.
func words(err error) []string {
	if err == nil {
		return nil
	}
	all := []string{err.Error()}
	switch w := err.(type) {
	case interface{ Unwrap() error }:
		all = append(all, words(w.Unwrap())...)
	case interface{ Unwrap() []error }:
		for _, e := range w.Unwrap() {
			all = append(all, words(e)...)
		}
	}
	return all
}

// releasePatience is how long the end of a call may take.
const releasePatience = 10 * time.Second

// Apart has a process of its own make a call, and returns its answer. What the call
// took is kept until release, or until this process ends in whatever way. Apart does
// not wait longer than ctx: the other process then ends as soon as it can.
func Apart(ctx context.Context, call string, args ...string) (answer string, release func() error, err error) {
	if os.Getenv(inCall) != "" {
		return "", nil, fmt.Errorf("%s: a process that makes a call starts no other", call)
	}
	if ctx.Err() != nil {
		return "", nil, fmt.Errorf("%s %v: %w", call, args, ctx.Err())
	}
	cmd := exec.Command(image, append([]string{Command, call}, args...)...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inCall+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is for the one that serves
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", call, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("%s: %w", call, err), in.Close())
	}
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("a process for %s: %w", call, err)
	}
	heard, ended := make(chan error, 1), make(chan error, 1)
	var r reply
	go func() {
		heard <- json.NewDecoder(out).Decode(&r)
		ended <- cmd.Wait()
	}()
	select {
	case <-ctx.Done():
		return "", nil, errors.Join(fmt.Errorf("%s %v: the device does not answer: %w", call, args, ctx.Err()), cmd.Process.Kill())
	case err := <-heard:
		if err != nil {
			return "", nil, errors.Join(fmt.Errorf("the process for %s ended without an answer: %w", call, err), in.Close())
		}
	}
	release = func() error { return end(call, cmd, in, ended) }
	if r.Err != "" {
		return "", nil, errors.Join(&farError{r}, release())
	}
	return r.Answer, release, nil
}

// CallsFor are the processes that make a call with arg, a device's path say, for
// whatever process: one of an earlier server may be left.
func CallsFor(arg string) ([]int, error) {
	procs, err := names("/proc")
	if err != nil {
		return nil, fmt.Errorf("looking for calls with %s: %w", arg, err)
	}
	var pids []int
	for _, p := range procs {
		pid, err := strconv.Atoi(p)
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + p + "/cmdline")
		if argv := strings.Split(string(b), "\x00"); err == nil && len(argv) > 3 && argv[1] == Command && slices.Contains(argv[3:], arg) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func end(call string, cmd *exec.Cmd, in io.Closer, ended <-chan error) error {
	err := in.Close()
	late := time.NewTimer(releasePatience)
	defer late.Stop()
	select {
	case werr := <-ended:
		err = errors.Join(err, werr)
	case <-late.C:
		err = errors.Join(err, fmt.Errorf("it has not ended after %v", releasePatience), cmd.Process.Kill())
	}
	if err != nil {
		return fmt.Errorf("the process for %s: %w", call, err)
	}
	return nil
}

// Claim takes the block device at path for the caller alone, until release. It
// opens it with O_EXCL, which the kernel refuses while somebody swaps to it, has
// mounted it, or builds on it (bd_prepare_to_claim in block/bdev.c), and then
// looks for programs that just have it open. Another process does that, for the
// caller may be the one that serves the device. Errors: ErrInUse, with who uses it,
// and that of ctx when the device does not answer in time.
func Claim(ctx context.Context, path string) (release func() error, err error) {
	_, release, err = Apart(ctx, "claim", path)
	return release, err
}

// Unthrottle has the kernel write to a device whatever its reads take. name is
// the device's, such as nbd0; sysfs is where that file system is.
//
// Writeback throttling (wbt_lat_usec in Documentation/ABI/stable/sysfs-block) makes
// writers wait while reads take longer than 2 ms, which is what a disk can do in
// that time. Over a network, and under load, they do; and the writer that it makes wait
// is then kswapd, whom everybody needs to have memory. A kernel without it has
// nothing to set.
//
// The kernel lets requests in flight end before it changes a queue, and holds new
// ones until then: this is for a device that is not in use yet, and another process
// does it. What is off is left alone.
func Unthrottle(ctx context.Context, sysfs, name string) error {
	_, release, err := Apart(ctx, "unthrottle", sysfs, name)
	if err != nil {
		return err
	}
	return release()
}
