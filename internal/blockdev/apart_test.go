package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serverVariable makes the test's program a server that makes a call which hangs,
// with a lock on a file.
const serverVariable = "BLOCKDEV_TEST_SERVER"

// upgradedVariable makes that server one whose program's file is gone.
const upgradedVariable = "BLOCKDEV_TEST_UPGRADED"

var errSpecial = errors.New("special")

var testCalls = map[string]Call{
	"answer": func(args []string) (string, func() error, error) { return strings.Join(args, "+"), nil, nil },
	"fail": func([]string) (string, func() error, error) {
		return "", nil, errors.Join(errors.New("first"), fmt.Errorf("opening: %w", &fs.PathError{Op: "open", Path: "x", Err: unix.EBUSY}), fmt.Errorf("it is %w", errSpecial))
	},
	"keep": func(args []string) (string, func() error, error) {
		return "", func() error { return os.WriteFile(args[0], nil, 0o600) }, nil
	},
	"files": func([]string) (string, func() error, error) {
		list, err := files()
		return strings.Join(list, "\n"), nil, err
	},
	// The open of a pipe that nobody writes to waits, as that of a device does
	// whose pages do not come.
	"hang": func(args []string) (string, func() error, error) {
		if err := os.WriteFile(args[0]+".begun", nil, 0o600); err != nil {
			return "", nil, err
		}
		f, err := os.Open(args[0])
		if err != nil {
			return "", nil, err
		}
		return "", f.Close, os.WriteFile(args[0]+".over", nil, 0o600)
	},
	"group": func([]string) (string, func() error, error) { return fmt.Sprint(unix.Getpgrp()), nil, nil },
	"apart": func([]string) (string, func() error, error) { return Apart(context.Background(), "answer") },
}

// files are those that this process has open.
func files() ([]string, error) {
	fds, err := names("/proc/self/fd")
	var to []string
	for _, fd := range fds {
		if l, err := os.Readlink("/proc/self/fd/" + fd); err == nil {
			to = append(to, l)
		}
	}
	return to, err
}

func TestMain(m *testing.M) {
	maps.Copy(testCalls, Calls)
	if len(os.Args) > 1 && os.Args[1] == Command {
		os.Exit(ServeCall(testCalls, os.Args[2:], os.Stdin, os.Stdout))
	}
	if pipe := os.Getenv(serverVariable); pipe != "" {
		f, err := os.Open(filepath.Dir(pipe))
		if err == nil && os.Getenv(upgradedVariable) != "" {
			err = os.Remove(os.Args[0])
		}
		if err == nil {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}
		if err == nil {
			_, _, err = Apart(context.Background(), "hang", pipe)
		}
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestApart(t *testing.T) {
	answer, release, err := Apart(t.Context(), "answer", "a", "b c")
	if err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil || answer != "a+b c" {
		t.Errorf("%q, %v", answer, err)
	}
	_, _, err = Apart(t.Context(), "fail")
	for _, want := range []error{errSpecial, unix.EBUSY} {
		if !errors.Is(err, want) {
			t.Errorf("%v is not %v", err, want)
		}
	}
	if errors.Is(err, unix.ENOENT) || err == nil || !strings.Contains(err.Error(), "first") {
		t.Error(err)
	}
	for _, call := range []string{"none", "apart"} {
		if _, _, err := Apart(t.Context(), call); err == nil {
			t.Errorf("call %s was made", call)
		}
	}
}

// What a call took is kept until it is given back.
func TestApartKeeps(t *testing.T) {
	file := filepath.Join(t.TempDir(), "given back")
	_, release, err := Apart(t.Context(), "keep", file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("given back at once")
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// The other process has no file of this one but the two pipes between them, not its
// standard error either.
func TestApartHoldsNoFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "held")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before, err := files() // one without close-on-exec may have come from outside
	if err != nil {
		t.Fatal(err)
	}
	answer, release, err := Apart(t.Context(), "files")
	if err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	list := strings.Split(answer, "\n")
	if pipes := slices.DeleteFunc(slices.Clone(list), func(l string) bool { return !strings.HasPrefix(l, "pipe:") || slices.Contains(before, l) }); len(pipes) != 2 || slices.Contains(list, path) {
		t.Errorf("it has %q", list)
	}
}

func pipe(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// until waits for a file.
func until(t *testing.T, path string) {
	t.Helper()
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal(path)
		case <-time.After(time.Millisecond):
		}
	}
}

// A device that does not answer is waited for no longer than asked.
func TestApartDoesNotAnswer(t *testing.T) {
	path := pipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		until(t, path+".begun")
		cancel()
	}()
	if _, _, err := Apart(ctx, "hang", path); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// The other process ends as soon as it can, and keeps nothing.
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		pids, err := CallsFor(path)
		if len(pids) == 0 || err != nil || time.Since(began) > releasePatience {
			if len(pids) > 0 || err != nil {
				t.Errorf("processes %v go on, %v", pids, err)
			}
			break
		}
	}
}

// A server that is killed in a call ends at once and gives up its locks, although
// the call goes on. That ends when the device answers.
func TestServerDiesInACall(t *testing.T) {
	path := pipe(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverVariable+"="+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, path+".begun")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for arg, want := range map[string]int{path: 1, "hang": 0, path + "x": 0} {
		if pids, err := CallsFor(arg); len(pids) != want || err != nil {
			t.Errorf("calls with %s: %v, %v", arg, pids, err)
		}
	}
	next, err := os.Open(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := unix.Flock(int(next.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("the next server does not get the lock: %v", err)
	}
	if _, err := os.Stat(path + ".over"); err == nil {
		t.Error("the call did not hang")
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	until(t, path+".over")
}

// What takes a device, or sets its queue, is another process, whose claim lasts
// until it is given back.
func TestClaimApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	release, err := Claim(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if own, err := files(); slices.Contains(own, path) || err != nil {
		t.Errorf("this process has the device open: %v", err)
	}
	if who, err := openers(path); who == "" || err != nil {
		t.Errorf("nobody has the device open: %v", err)
	}
	if _, err := Claim(t.Context(), path); !errors.Is(err, ErrInUse) {
		t.Errorf("a second time: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if who, err := openers(path); who != "" || err != nil {
		t.Errorf("process %s has the device open: %v", who, err)
	}
	silent := pipe(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Claim(ctx, silent); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a device that does not answer: %v", err)
	}
	if err := Unthrottle(ctx, silent, "nbd0"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a queue, after the time is over: %v", err)
	}
	if err := Unthrottle(t.Context(), t.TempDir(), "nbd0"); err != nil {
		t.Errorf("a kernel that does not throttle: %v", err)
	}
}

// A server whose program was upgraded since makes its calls as it was.
func TestUpgraded(t *testing.T) {
	path := pipe(t)
	program, err := os.ReadFile(os.Args[0])
	copied := filepath.Join(t.TempDir(), "program")
	if err == nil {
		err = os.WriteFile(copied, program, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied)
	cmd.Env = append(os.Environ(), serverVariable+"="+path, upgradedVariable+"=1")
	var said strings.Builder
	cmd.Stdout = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if _, err := os.Stat(path + ".begun"); err == nil {
			break
		}
		select {
		case <-ended:
			t.Fatalf("no call: %s", said.String())
		case <-time.After(time.Millisecond):
		}
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	until(t, path+".over")
	<-ended
}

// An interrupt at the terminal is for the one that serves.
func TestApartInItsOwnGroup(t *testing.T) {
	answer, release, err := Apart(t.Context(), "group")
	if err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil || answer == fmt.Sprint(unix.Getpgrp()) {
		t.Errorf("group %s, %v", answer, err)
	}
}
