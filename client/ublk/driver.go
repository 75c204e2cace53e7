package ublk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dmps/internal/blockdev"
	"dmps/internal/uring"
)

// ErrUnsupported says that this kernel cannot do it.
var ErrUnsupported = errors.New("no ublk on this machine") // use NBD

const controlPath = "/dev/ublk-control"

// driver is the kernel's.
type driver struct{ fd int }

func openDriver() (*driver, error) {
	fd, err := unix.Open(controlPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("%w: %s: %w (modprobe ublk_drv; Linux 6.5 or later)", ErrUnsupported, controlPath, err)
	case err != nil:
		return nil, fmt.Errorf("opening %s: %w (it takes CAP_SYS_ADMIN)", controlPath, err)
	}
	return &driver{fd}, nil
}

func (d *driver) Close() error { return unix.Close(d.fd) }

// command sends a control command and waits for its result. Each has a ring of
// its own: they are few, and stopping a device must not wait for a start that
// waits for an answer. The kernel carries them out in a worker of the process,
// which reads buf, and writes it, from where uring.Memory says.
func (d *driver) command(op uint32, c ctrlCmd, buf []byte) error {
	r, err := uring.New(1, uring.Options{SQE128: true})
	if errors.Is(err, uring.ErrUnsupported) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return err
	}
	mem, err := uring.NewMemory(max(len(buf), 1))
	if err != nil {
		return errors.Join(err, r.Close())
	}
	if buf != nil {
		copy(mem.Bytes(), buf)
		c.len, c.addr = uint16(len(buf)), mem.Addr()
	}
	s := r.Next()
	s.Opcode, s.FD, s.CmdOp = uring.OpURingCmd, int32(d.fd), op
	c.put(r.Cmd(s)[:ctrlCmdSize])
	done, ok := uring.CQE{}, false
	for !ok && err == nil {
		err = r.Enter(1)
		done, ok = r.Pop()
	}
	if ok { // otherwise the kernel may still use it: it stays
		copy(buf, mem.Bytes())
		err = errors.Join(err, mem.Free())
	}
	err = errors.Join(err, r.Close())
	if err == nil && done.Res < 0 {
		err = unix.Errno(-done.Res)
	}
	return err
}

// about is command with the words for an error.
func (d *driver) about(what string, id int, op uint32, c ctrlCmd, buf []byte) error {
	c.dev, c.queue = uint32(id), noQueue
	err := d.command(op, c, buf)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV) && id >= 0:
		err = fmt.Errorf("%w (%w)", errNoDevice, err)
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: it takes CAP_SYS_ADMIN", err)
	case errors.Is(err, unix.EOPNOTSUPP):
		err = fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("%s ublk device %d: %w", what, id, err)
}

func (d *driver) features() (uint64, error) {
	buf := make([]byte, 8) // UBLK_FEATURES_LEN
	if err := d.command(cmdGetFeatures, ctrlCmd{dev: anyID, queue: noQueue}, buf); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w: the driver is older than Linux 6.5: %w", ErrUnsupported, err)
		}
		return 0, fmt.Errorf("asking ublk for its features: %w", err)
	}
	return binary.NativeEndian.Uint64(buf), nil
}

func (d *driver) devices() ([]int, error) {
	names, err := filepath.Glob("/sys/class/ublk-char/ublkc*")
	if err != nil {
		return nil, fmt.Errorf("listing ublk devices: %w", err)
	}
	if _, err := os.Stat("/sys/class/ublk-char"); err != nil {
		return nil, fmt.Errorf("listing ublk devices: %w", err)
	}
	var ids []int
	for _, n := range names {
		id, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(n), "ublkc"))
		if err != nil {
			return nil, fmt.Errorf("listing ublk devices: %s: %w", n, err)
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

func (d *driver) info(id int) (devInfo, error) {
	buf := make([]byte, devInfoSize)
	if err := d.about("asking for", id, cmdGetDevInfo, ctrlCmd{}, buf); err != nil {
		return devInfo{}, err
	}
	return parseDevInfo(buf)
}

func (d *driver) limits(id int) (limits, error) {
	buf := make([]byte, paramsSize)
	new(limits).put(buf) // says how much of it is asked for
	if err := d.about("asking for the parameters of", id, cmdGetParams, ctrlCmd{}, buf); err != nil {
		return limits{}, err
	}
	return parseLimits(buf)
}

func (d *driver) add(i devInfo) (devInfo, error) {
	buf := make([]byte, devInfoSize)
	i.put(buf)
	if err := d.about("adding", int(int32(i.id)), cmdAddDev, ctrlCmd{}, buf); err != nil {
		return devInfo{}, err
	}
	return parseDevInfo(buf)
}

func (d *driver) setLimits(id int, l limits) error {
	buf := make([]byte, paramsSize)
	l.put(buf)
	return d.about("setting the parameters of", id, cmdSetParams, ctrlCmd{}, buf)
}

func (d *driver) start(id, pid int) error {
	return d.uninterrupted("starting", id, cmdStartDev, ctrlCmd{data: uint64(pid)})
}

// stop is carried out by another process: the driver waits for requests that this
// one answers.
func (d *driver) stop(id int) error {
	_, release, err := blockdev.Apart(context.Background(), "ublk-stop", strconv.Itoa(id))
	if err != nil {
		return err
	}
	return release()
}

// Calls are what another process does for this one, which serves the device that
// it waits for: blockdev.ServeCall.
var Calls = map[string]blockdev.Call{"ublk-stop": callStop}

// callStop takes ID.
func callStop(args []string) (answer string, release func() error, err error) {
	id, err := strconv.Atoi(args[0])
	if err != nil {
		return "", nil, fmt.Errorf("stopping ublk device %s: %w", args[0], err)
	}
	d, err := openDriver()
	if err != nil {
		return "", nil, err
	}
	return "", nil, errors.Join(d.about("stopping", id, cmdStopDev, ctrlCmd{}, nil), d.Close())
}

func (d *driver) remove(id int) error {
	err := d.about("deleting", id, cmdDelDev, ctrlCmd{}, nil)
	for errors.Is(err, unix.EINTR) { // deleted, but its number is not free yet
		if _, err = d.info(id); err == nil {
			err = d.about("deleting", id, cmdDelDev, ctrlCmd{}, nil)
		}
	}
	if errors.Is(err, errNoDevice) {
		return nil
	}
	return err
}

func (d *driver) startRecovery(id int) error {
	err := d.about("beginning the recovery of", id, cmdStartRecovery, ctrlCmd{}, nil)
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %w", errNotYet, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: %w", errBegun, err)
	}
	return err
}

func (d *driver) endRecovery(id, pid int) error {
	return d.uninterrupted("ending the recovery of", id, cmdEndRecovery, ctrlCmd{data: uint64(pid)})
}

func (d *driver) unthrottle(ctx context.Context, id int) error {
	return blockdev.Unthrottle(ctx, "/sys", fmt.Sprintf("ublkb%d", id))
}

// uninterrupted is about for commands that wait and that a signal ends.
func (d *driver) uninterrupted(what string, id int, op uint32, c ctrlCmd) error {
	for {
		if err := d.about(what, id, op, c, nil); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// The nodes are made by the kernel (devtmpfs) or, a little later, by udev, and
// the old server's hold on the character device ends a little later than it.
const (
	nodePatience = 5 * time.Second
	nodePoll     = 10 * time.Millisecond
)

func (d *driver) open(id int) (file, error) {
	path := fmt.Sprintf("/dev/ublkc%d", id)
	for began := time.Now(); ; time.Sleep(nodePoll) {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil {
			return &charDev{fd}, nil
		}
		passing := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINTR)
		if !passing || time.Since(began) > nodePatience {
			return nil, fmt.Errorf("opening %s: %w", path, err)
		}
	}
}

func (d *driver) port(q, depth int) (port, error) {
	p, err := newPort(q, depth)
	if err != nil {
		return nil, err // not p, which would be a port that is not nil
	}
	return p, nil
}

func (d *driver) claim(ctx context.Context, id int) (func() error, error) {
	return blockdev.Claim(ctx, d.path(id))
}

func (d *driver) path(id int) string { return fmt.Sprintf("/dev/ublkb%d", id) }

func (d *driver) alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state follows the name, which is in parentheses and may contain any.
	_, after, _ := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), " ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}
