package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"dmps/internal/blockdev"
	"dmps/internal/swapctl"
)

// asleep is a system call that a signal interrupts, as swapoff is.
func asleep(d time.Duration) error {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	return unix.Nanosleep(&ts, nil)
}

// An interrupt takes swapoff out of the kernel, and is an error that says so.
func TestSwapoffInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a := &app{err: new(strings.Builder)}
	err := a.swapoff(ctx, "/dev/none", 1, func(string) error {
		cancel()
		return asleep(time.Hour)
	})
	if !errors.Is(err, unix.EINTR) || !strings.Contains(err.Error(), "/dev/none is used on") {
		t.Fatal(err)
	}
}

// A signal that nobody sent for it does not end it.
func TestSwapoffPreempted(t *testing.T) {
	var calls atomic.Int32
	a := &app{err: new(strings.Builder)}
	err := a.swapoff(t.Context(), "/dev/none", 1, func(string) error {
		if calls.Add(1) < 3 {
			return unix.EINTR
		}
		return nil
	})
	if err != nil || calls.Load() != 3 {
		t.Fatalf("%d calls: %v", calls.Load(), err)
	}
}

func TestSwapoffFails(t *testing.T) {
	a := &app{err: new(strings.Builder)}
	if err := a.swapoff(t.Context(), "/dev/none", 1, func(string) error { return unix.ENOMEM }); !errors.Is(err, unix.ENOMEM) {
		t.Fatal(err)
	}
}

// Room is waited for as long as was asked, and no longer than it takes.
func TestRoom(t *testing.T) {
	const full, fits = 100, 10
	for _, c := range []struct {
		wait, free, took time.Duration // free: after this, it fits
		ok               bool
	}{
		{0, 0, 0, true},
		{0, time.Second, 0, false},
		{time.Minute, 10 * time.Second, 10 * time.Second, true},
		{5 * time.Second, time.Hour, 5 * time.Second, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			a := &app{err: new(strings.Builder)}
			fit, err := a.room(t.Context(), c.wait, func() (swapctl.Fit, error) {
				if time.Since(began) >= c.free {
					return swapctl.Fit{Used: fits, Available: full}, nil
				}
				return swapctl.Fit{Used: full, Available: full}, nil
			})
			if err != nil || fit.Fits() != c.ok || time.Since(began) != c.took {
				t.Errorf("%+v: fits %v after %v: %v", c, fit.Fits(), time.Since(began), err)
			}
		})
	}
}

// fakeDevice is a device that cannot be claimed, when err says so.
type fakeDevice struct{ err error }

func (d fakeDevice) Path() string                        { return "/dev/none" }
func (d fakeDevice) Claim(context.Context) error         { return d.err }
func (d fakeDevice) Close(context.Context) (bool, error) { return false, nil }

// The client ends when it is told to, but not under a kernel that uses its
// device, nor when it cannot tell, nor for a page in a browser.
func TestTakeDetach(t *testing.T) {
	for name, c := range map[string]struct {
		dev   kernelDevice
		ended bool
	}{
		"no device": {nil, true}, "idle": {fakeDevice{}, true},
		"in use": {fakeDevice{fmt.Errorf("/dev/none: %w", blockdev.ErrInUse)}, false}, "unknown": {fakeDevice{err: errors.New("no answer")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ended := false
			adm := newAdmin(false, (&app{err: new(strings.Builder)}).logger())
			adm.takeDetach(c.dev, func() { ended = true })
			s := httptest.NewServer(adm.handler())
			defer s.Close()
			req := httptest.NewRequest(http.MethodPost, "/detach", nil)
			req.Header.Set("Origin", "http://example.com")
			w := httptest.NewRecorder()
			adm.handler().ServeHTTP(w, req)
			if w.Code != http.StatusForbidden || ended {
				t.Fatalf("a browser: %d, ended: %v", w.Code, ended)
			}
			if err := orderDetach(t.Context(), s.URL); (err == nil) != c.ended || name == "in use" && !strings.Contains(err.Error(), "409") {
				t.Error(err)
			}
			if ended != c.ended {
				t.Errorf("ended: %v", ended)
			}
		})
	}
}

// Where an attach of this host left its address, it is found without metadata;
// an address that nobody answers at, or another, is nobody's.
func TestMetHere(t *testing.T) {
	dir := t.TempDir()
	if _, _, found := metHere(t.Context(), dir, "v1"); found {
		t.Error("found where nobody was")
	}
	status := adminStatus{Volume: "v1", Boot: bootID()}
	adm := newAdmin(false, (&app{err: new(strings.Builder)}).logger())
	adm.answer("/status", func() any { return status })
	s := httptest.NewServer(adm.mux)
	defer s.Close()
	takeBack, err := tellWhereabouts(dir, "v1", s.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, base, found := metHere(t.Context(), dir, "v1"); !found || base != s.URL {
		t.Errorf("not found: %q", base)
	}
	if _, err := tellWhereabouts(dir, "v2", s.URL); err != nil {
		t.Fatal(err)
	}
	if _, _, found := metHere(t.Context(), dir, "v2"); found {
		t.Error("another volume's was taken for it")
	}
	s.Close()
	if _, _, found := metHere(t.Context(), dir, "v1"); found {
		t.Error("found although it does not answer")
	}
	for range 2 {
		if err := takeBack(); err != nil {
			t.Error(err)
		}
	}
}

// A client of another pid namespace is gone when nobody answers for it, whatever
// process has its number here.
func TestGoneFromAContainer(t *testing.T) {
	about := adminStatus{PID: os.Getpid(), PIDSpace: "pid:[1]", Started: time.Unix(1, 0)}
	var asked atomic.Int32
	now := about
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) > 2 {
			now.Started = time.Unix(2, 0) // the next one, at the same address
		}
		_ = json.NewEncoder(w).Encode(now) // the test sees it
	}))
	if err := gone(t.Context(), about, s.URL); err != nil || asked.Load() != 3 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
	s.Close()
	if err := gone(t.Context(), about, s.URL); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	about.PIDSpace = pidSpace()
	if err := gone(ctx, about, s.URL); err == nil {
		t.Error("this process is there")
	}
}

// The service manager hears when a role is ready, and when it ends.
func TestReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	log := (&app{err: new(strings.Builder)}).logger()
	ready(log)
	leaving(log)
	buf := make([]byte, 100)
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		n, err := l.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
}

// A volume of another machine, of another name, or of nobody is not detached.
func TestAttachedHere(t *testing.T) {
	status := adminStatus{Volume: "v1", Boot: bootID(), Holder: "host/x"}
	for name, c := range map[string]struct {
		change func(*adminStatus)
		want   string
	}{
		"here":      {func(*adminStatus) {}, ""},
		"elsewhere": {func(s *adminStatus) { s.Boot = "another" }, "another machine"},
		"no boot":   {func(s *adminStatus) { s.Boot = "" }, "another machine"},
		"another":   {func(s *adminStatus) { s.Volume = "v2" }, "is of volume v2"},
	} {
		t.Run(name, func(t *testing.T) {
			st := status
			c.change(&st)
			adm := newAdmin(false, (&app{err: new(strings.Builder)}).logger())
			adm.answer("/status", func() any { return st })
			s := httptest.NewServer(adm.handler())
			defer s.Close()
			_, _, err := new(app).attachedHere(t.Context(), "v1", s.URL)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Error(err)
			}
		})
	}
}
