package main

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"dmps/internal/blockdev"
	"dmps/internal/doctor"
)

// Attach refuses by doctor's list, and says how to mend it.
func TestMeets(t *testing.T) {
	text := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	h := &doctor.Host{
		Root: fstest.MapFS{
			"proc/self/cgroup": text("0::/user.slice/session-1.scope\n"), "sys/fs/cgroup/cgroup.controllers": text("memory\n"),
			"sys/module/nbd/version": text(""), "proc/sys/kernel/sched_rt_runtime_us": text("950000\n"),
		},
		Release: "6.12.0", Capable: func(uint) bool { return true }, Want: kindOf("/dev/nbd0"),
		Ublk: func() error { return errors.New("none") }, NBD: func() error { return nil }, Protect: func() error { return nil }, Devices: func() ([]blockdev.Device, error) { return nil, nil },
	}
	if err := meets(h, doctor.Waivers{}); err == nil || !strings.Contains(err.Error(), "MemorySwapMax=0") {
		t.Error(err)
	}
	if err := meets(h, doctor.Waivers{Unprotected: true}); err != nil {
		t.Error(err)
	}
	h.Want = kindOf("ublk")
	var a *advised
	if err := meets(h, doctor.Waivers{Unprotected: true}); !errors.As(err, &a) || strings.Contains(a.text, "--allow") {
		t.Errorf("a front end that is not there: %+v", a)
	}
}
