package doctor

import (
	"errors"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

// arrangement is a machine on which attach --device is started.
type arrangement struct {
	change  func(h *Host, m fstest.MapFS)
	want    string // the front end; "": NBD
	waivers Waivers
	refused string // the check that refuses; "": none
}

func put(name, text string) func(*Host, fstest.MapFS) {
	return func(_ *Host, m fstest.MapFS) { m[name] = &fstest.MapFile{Data: []byte(text)} }
}

// in puts the process into a cgroup, with limits of swap from there to the root.
func in(path string, limits map[string]string) func(*Host, fstest.MapFS) {
	return func(h *Host, m fstest.MapFS) {
		put("proc/self/cgroup", "0::"+path+"\n")(h, m)
		for dir, limit := range limits {
			put("sys/fs/cgroup"+dir+"/memory.swap.max", limit+"\n")(h, m)
		}
	}
}

func without(right uint) func(*Host, fstest.MapFS) {
	return func(h *Host, _ fstest.MapFS) { h.Capable = func(c uint) bool { return c != right } }
}

func release(r string) func(*Host, fstest.MapFS) {
	return func(h *Host, _ fstest.MapFS) { h.Release = r }
}

func noUblk(h *Host, _ fstest.MapFS) { h.Ublk = func() error { return errors.New("no ublk here") } }

func noNBD(h *Host, _ fstest.MapFS) { h.NBD = func() error { return errors.New("no nbd here") } }

func denied(h *Host, _ fstest.MapFS) {
	h.Protect = func() error { return errors.New("denied") }
}

// container is a cgroup namespace: what it shows as the root is a cgroup like others.
func container(swap string) func(*Host, fstest.MapFS) {
	return func(h *Host, m fstest.MapFS) {
		put("sys/fs/cgroup/cgroup.type", "domain\n")(h, m)
		put("sys/fs/cgroup/memory.swap.max", swap+"\n")(h, m)
	}
}

const session = "/user.slice/user-0.slice/session-1.scope"

var arrangements = map[string]arrangement{
	"all is there":                {},
	"a login session":             {change: in(session, map[string]string{session: "max"}), refused: "cgroup"},
	"a login session, waived":     {change: in(session, nil), waivers: Waivers{Unprotected: true}},
	"a unit that may swap":        {change: in("/system.slice/d.service", map[string]string{"/system.slice/d.service": "max"}), refused: "cgroup"},
	"a unit with a little swap":   {change: in("/system.slice/d.service", map[string]string{"/system.slice/d.service": "4096"}), refused: "cgroup"},
	"a unit that does not swap":   {change: in("/system.slice/d.service", map[string]string{"/system.slice/d.service": "0"})},
	"a slice that does not swap":  {change: in("/dmps.slice/d.service", map[string]string{"/dmps.slice": "0", "/dmps.slice/d.service": "max"})},
	"a container without swap":    {change: in("/", map[string]string{"": "0"})},
	"cgroup v1":                   {change: put("proc/self/cgroup", "3:memory:/\n1:name=systemd:/x\n"), refused: "cgroup"},
	"v1 and v2":                   {change: put("proc/self/cgroup", "3:memory:/user\n0::/\n")},
	"v2 is not mounted":           {change: func(_ *Host, m fstest.MapFS) { delete(m, "sys/fs/cgroup/cgroup.controllers") }, refused: "cgroup"},
	"no memory controller":        {change: put("sys/fs/cgroup/cgroup.controllers", "cpu io\n"), refused: "cgroup"},
	"Linux 5.4":                   {change: release("5.4.0"), refused: "kernel"},
	"Linux 5.6":                   {change: release("5.6.0"), refused: "kernel"},
	"Linux 5.13":                  {change: release("5.13.19-generic"), refused: "kernel"},
	"Linux 5.14":                  {change: release("5.14.0-1.el9.x86_64")},
	"Linux 5.10, auto":            {change: release("5.10.0"), want: Auto, refused: "kernel"},
	"Linux 6.1, ublk":             {change: release("6.1.0"), want: Ublk, refused: "kernel"},
	"Linux 6.1, auto":             {change: release("6.1.0"), want: Auto},
	"io_uring disabled, ublk":     {change: put("proc/sys/kernel/io_uring_disabled", "2\n"), want: Ublk, refused: "io_uring"},
	"io_uring for root, ublk":     {change: put("proc/sys/kernel/io_uring_disabled", "1\n"), want: Ublk},
	"io_uring disabled, nbd":      {change: put("proc/sys/kernel/io_uring_disabled", "2\n")},
	"io_uring disabled, auto":     {change: put("proc/sys/kernel/io_uring_disabled", "2\n"), want: Auto},
	"ublk refuses":                {change: noUblk, want: Ublk, refused: "driver"},
	"ublk refuses, auto":          {change: noUblk, want: Auto},
	"nbd does not hear":           {change: noNBD, refused: "driver"},
	"nbd does not hear, auto":     {change: noNBD, want: Auto},
	"no ublk module":              {change: func(_ *Host, m fstest.MapFS) { delete(m, "sys/module/ublk_drv/version") }, want: Ublk, refused: "driver"},
	"no nbd module":               {change: func(_ *Host, m fstest.MapFS) { delete(m, "sys/module/nbd/version") }, refused: "driver"},
	"no nbd module, auto":         {change: func(_ *Host, m fstest.MapFS) { delete(m, "sys/module/nbd/version") }, want: Auto},
	"no CAP_SYS_ADMIN":            {change: without(unix.CAP_SYS_ADMIN), waivers: Waivers{true, true}, refused: "rights"},
	"no CAP_NET_ADMIN":            {change: without(unix.CAP_NET_ADMIN), refused: "rights"},
	"no CAP_NET_ADMIN, ublk":      {change: without(unix.CAP_NET_ADMIN), want: Ublk},
	"no CAP_SYS_RESOURCE":         {change: without(unix.CAP_SYS_RESOURCE), refused: "rights"},
	"no CAP_SYS_RESOURCE, waived": {change: without(unix.CAP_SYS_RESOURCE), waivers: Waivers{Unprotected: true}},
	"no CAP_SYS_NICE":             {change: without(unix.CAP_SYS_NICE), refused: "rights"},
	"LimitRTPRIO": {change: func(h *Host, m fstest.MapFS) {
		without(unix.CAP_SYS_NICE)(h, m)
		h.RTPrio = Priority
	}},
	"little may be locked":         {change: without(unix.CAP_IPC_LOCK), refused: "memlock"},
	"little may be locked, waived": {change: without(unix.CAP_IPC_LOCK), waivers: Waivers{Swappable: true}},
	"LimitMEMLOCK": {change: func(h *Host, m fstest.MapFS) {
		without(unix.CAP_IPC_LOCK)(h, m)
		h.Memlock = ^uint64(0)
	}},
	"a filter denies it":         {change: denied, refused: "rights"},
	"a filter denies it, waived": {change: denied, waivers: Waivers{Unprotected: true}},
	"a container that swaps":     {change: container("max"), refused: "cgroup"},
	"a container that does not":  {change: container("0")},
	"no realtime":                {change: put("proc/sys/kernel/sched_rt_runtime_us", "0\n"), refused: "realtime"},
}

// Attach refuses what doctor finds a failure in, for the same reason, and nothing
// else; and what is agreed to be done without doctor still says.
func TestAttachAndDoctorAgree(t *testing.T) {
	for name, a := range arrangements {
		t.Run(name, func(t *testing.T) {
			h, m := well()
			if a.want != "" {
				h.Want = a.want
			}
			if a.change != nil {
				a.change(h, m)
			}
			said := make(map[string]bool)
			for _, f := range Examine(h) {
				if f.Verdict == Failure {
					said[f.Check] = true
				}
			}
			refused := Refused(h, a.waivers)
			for _, f := range refused {
				if f.Check != a.refused {
					t.Errorf("refused too: %+v", f)
				}
				if !said[f.Check] {
					t.Errorf("doctor does not say %+v", f)
				}
			}
			if (len(refused) > 0) != (a.refused != "") {
				t.Errorf("refused: %+v, wanted %q", refused, a.refused)
			}
			if a.refused == "" && a.waivers == (Waivers{}) && len(said) > 0 {
				t.Errorf("attach goes on, and doctor says %v", said)
			}
		})
	}
}
