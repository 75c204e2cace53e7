package doctor

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"dmps/internal/blockdev"
)

// stat is a thread with flags (PF_*) and a scheduling policy.
func stat(flags, policy int) string {
	return fmt.Sprintf("7 (dmps) S 1 2 3 0 -1 %d 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 10 %d 0 0 0\n", flags, policy)
}

// well is a machine that has everything.
func well() (*Host, fstest.MapFS) {
	files := fstest.MapFS{}
	for name, text := range map[string]string{
		"sys/module/nbd/version":                          "",
		"sys/module/ublk_drv/version":                     "",
		"proc/self/cgroup":                                "0::/\n",
		"sys/fs/cgroup/cgroup.controllers":                "memory\n",
		"proc/sys/kernel/sched_rt_runtime_us":             "950000\n",
		"proc/sys/kernel/sched_rr_timeslice_ms":           "10\n",
		"proc/sys/vm/min_free_kbytes":                     "65536\n",
		"proc/sys/vm/swappiness":                          "60\n",
		"proc/sys/vm/page-cluster":                        "3\n",
		"sys/module/zswap/parameters/enabled":             "N\n",
		"proc/self/mounts":                                "/dev/sda1 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n",
		"proc/1/cmdline":                                  "/sbin/init\x00",
		"proc/42/cmdline":                                 "/usr/bin/dmps\x00attach\x00swap0\x00--device=nbd\x00--swap\x00",
		"proc/42/oom_score_adj":                           "-1000\n",
		"proc/42/cgroup":                                  "0::/dmps-attach-swap0\n",
		"sys/fs/cgroup/dmps-attach-swap0/memory.swap.max": "0\n",
		"proc/43/cgroup":                                  "0::/dmps-attach-swap0\n",
		"proc/42/status":                                  "Name:\tdmps\nVmLck:\t   51200 kB\nVmSwap:\t       0 kB\n",
		"proc/42/task/42/stat":                            stat(1572864, 2),
		"proc/42/task/43/stat":                            stat(1572864, 2),
		"proc/50/cmdline":                                 "/usr/bin/dmps\x00attach\x00swap1\x00--nbd\x00127.0.0.1:1\x00", // no device: anything goes
		"proc/50/task/50/stat":                            stat(0, 0),
		"proc/swaps":                                      "Filename Type Size Used Priority\n/dev/nbd0 partition 100 0 5\n/dev/sda2 partition 100 0 -2\n",
		"sys/block/nbd0/backend":                          "dmps/swap0/1\n",
		"sys/block/nbd0/queue/scheduler":                  "[none] mq-deadline\n",
		"sys/block/nbd0/queue/nr_requests":                "16\n",
		"sys/block/nbd0/queue/max_sectors_kb":             "128\n",
		"sys/block/nbd0/queue/wbt_lat_usec":               "0\n",
		"sys/block/nbd1/backend":                          "someone-else\n",
		"sys/block/nbd1/queue/wbt_lat_usec":               "2000\n",
		"sys/block/nbd1/queue/nr_requests":                "128\n",
	} {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return &Host{Root: files, Release: "6.12.117+deb12-cloud-amd64", Capable: func(uint) bool { return true },
		Memlock: 8 << 20, Want: NBD, Ublk: func() error { return nil }, NBD: func() error { return nil }, Protect: func() error { return nil }, Program: "/usr/bin/dmps", Devices: holding("/dev/nbd0", 1, "/dev/ublkb0", 2)}, files
}

// holding are devices and whose they are.
func holding(pairs ...any) func() ([]blockdev.Device, error) {
	var all []blockdev.Device
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, blockdev.Device{Path: pairs[i].(string), Owner: uint64(pairs[i+1].(int))})
	}
	return func() ([]blockdev.Device, error) { return all, nil }
}

func TestWell(t *testing.T) {
	for _, want := range []string{NBD, Ublk, Auto} {
		h, _ := well()
		h.Want = want
		for _, f := range Examine(h) {
			if f.Verdict != OK {
				t.Errorf("%s: %+v", want, f)
			}
		}
	}
}

// zram before dmps is how it should be: it is faster.
func TestZramFirst(t *testing.T) {
	h, files := well()
	files["proc/swaps"] = &fstest.MapFile{Data: []byte("/dev/zram0 partition 100 0 100\n/dev/nbd0 partition 100 0 5\n")}
	if all := Examine(h); Worst(all) != OK {
		t.Errorf("%+v", all)
	}
}

// A metadata node on the machine is well where it cannot be swapped out.
func TestMetadataKeptOut(t *testing.T) {
	for _, argv := range []string{"dmps\x00meta\x00--dir\x00/x\x00--protect\x00", "dmps\x00meta\x00--dir=/x\x00"} {
		h, files := well()
		files["proc/44/cmdline"] = &fstest.MapFile{Data: []byte(argv)}
		files["proc/44/cgroup"] = &fstest.MapFile{Data: []byte("0::/system.slice/dmps-meta.service\n")}
		files["sys/fs/cgroup/system.slice/dmps-meta.service/memory.swap.max"] = &fstest.MapFile{Data: []byte("0\n")}
		if all := Examine(h); Worst(all) != OK {
			t.Errorf("%q: %+v", argv, all)
		}
		delete(files, "sys/fs/cgroup/system.slice/dmps-meta.service/memory.swap.max")
		if all := Examine(h); (Worst(all) == OK) != strings.Contains(argv, "--protect") {
			t.Errorf("%q, in a cgroup that swaps: %+v", argv, all)
		}
	}
}

// Each thing that can be wrong is found, alone, and comes with a reason and a
// way out.
func TestEachFault(t *testing.T) {
	set := func(name, text string) func(*Host, fstest.MapFS) {
		return func(_ *Host, f fstest.MapFS) { f[name] = &fstest.MapFile{Data: []byte(text)} }
	}
	remove := func(name string) func(*Host, fstest.MapFS) {
		return func(_ *Host, f fstest.MapFS) { delete(f, name) }
	}
	server := func(swapped string) func(*Host, fstest.MapFS) {
		return func(h *Host, f fstest.MapFS) {
			for name, text := range map[string]string{
				"cmdline": "dmps\x00server\x00--memory\x001GiB\x00--protect\x00", "oom_score_adj": "-1000\n",
				"status": "VmLck:\t 5 kB\nVmSwap:\t  " + swapped + " kB\n", "task/43/stat": stat(1572864, 2),
			} {
				set("proc/43/"+name, text)(h, f)
			}
		}
	}
	for name, c := range map[string]struct {
		spoil func(*Host, fstest.MapFS)
		check string
		want  Verdict
	}{
		"old kernel":          {func(h *Host, _ fstest.MapFS) { h.Release = "5.4.0-100-generic" }, "kernel", Failure},
		"strange kernel":      {func(h *Host, _ fstest.MapFS) { h.Release = "custom" }, "kernel", Failure},
		"no ublk yet":         {func(h *Host, _ fstest.MapFS) { h.Release, h.Want = "6.4.0", Ublk }, "kernel", Failure},
		"no nbd":              {remove("sys/module/nbd/version"), "driver", Failure},
		"no capability":       {func(h *Host, _ fstest.MapFS) { h.Capable = func(c uint) bool { return c != unix.CAP_SYS_RESOURCE } }, "rights", Failure},
		"memlock":             {func(h *Host, _ fstest.MapFS) { h.Capable = func(c uint) bool { return c != unix.CAP_IPC_LOCK } }, "memlock", Failure},
		"cgroup v1":           {set("proc/self/cgroup", "3:memory:/\n"), "cgroup", Failure},
		"no realtime":         {set("proc/sys/kernel/sched_rt_runtime_us", "0\n"), "realtime", Failure},
		"long slices":         {set("proc/sys/kernel/sched_rr_timeslice_ms", "100\n"), "realtime", Warning},
		"small reserve":       {set("proc/sys/vm/min_free_kbytes", "11000\n"), "min_free_kbytes", Failure},
		"unreadable":          {remove("proc/sys/vm/min_free_kbytes"), "min_free_kbytes", Warning},
		"never swaps":         {set("proc/sys/vm/swappiness", "0\n"), "swappiness", Warning},
		"much readahead":      {set("proc/sys/vm/page-cluster", "7\n"), "page-cluster", Warning},
		"zswap":               {set("sys/module/zswap/parameters/enabled", "Y\n"), "zswap", Warning},
		"tmpfs":               {func(h *Host, _ fstest.MapFS) { h.Program = "/run/dmps" }, "program", Warning},
		"server here":         {set("proc/43/cmdline", "dmps\x00server\x00--memory\x001GiB\x00"), "memory servers", Failure},
		"protected server":    {server("0"), "memory servers", Warning},
		"server, swapped out": {server("36"), "memory servers", Failure},
		"server, =":           {set("proc/43/cmdline", "dmps\x00server\x00--memory=1GiB\x00"), "memory servers", Failure},
		"not protected, =":    {set("proc/43/cmdline", "dmps\x00server\x00--memory=1GiB\x00--protect=false\x00"), "memory servers", Failure},
		"meta here":           {set("proc/44/cmdline", "dmps\x00meta\x00--dir\x00/x\x00"), "metadata", Failure},
		"no flusher":          {set("proc/42/task/43/stat", stat(0, 2)), "client", Failure},
		"not first":           {set("proc/42/task/43/stat", stat(1572864, 0)), "client", Failure},
		"never gives way":     {set("proc/42/task/43/stat", stat(1572864, 1)), "client", Failure},
		"client may swap":     {set("sys/fs/cgroup/dmps-attach-swap0/memory.swap.max", "max\n"), "client", Failure},
		"never throttled":     {set("proc/sys/kernel/sched_rt_runtime_us", "-1\n"), "realtime", Warning},
		"strange thread":      {set("proc/42/task/43/stat", "43 (x) S"), "client", Failure},
		"OOM victim":          {set("proc/42/oom_score_adj", "0\n"), "client", Failure},
		"not locked":          {set("proc/42/status", "VmLck:\t       0 kB\n"), "client", Failure},
		"swapped out":         {set("proc/42/status", "VmLck:\t 5 kB\nVmSwap:\t  4 kB\n"), "client", Failure},
		"equal priorities":    {set("proc/swaps", "/dev/nbd0 partition 100 0 5\n/dev/sda2 partition 100 0 5\n"), "swap space", Failure},
		"disk comes first":    {set("proc/swaps", "/dev/nbd0 partition 100 0 -3\n/dev/sda2 partition 100 0 -2\n"), "swap space", Warning},
		"cannot swap":         {remove("proc/swaps"), "swap space", Failure},
		"deep queue":          {set("sys/block/nbd0/queue/nr_requests", "128\n"), "queue", Failure},
		"throttled":           {set("sys/block/nbd0/queue/wbt_lat_usec", "2000\n"), "throttling", Failure},
		"ublk, throttled": {func(h *Host, f fstest.MapFS) {
			set("proc/swaps", "Filename Type Size Used Priority\n/dev/ublkb0 partition 100 0 5\n")(h, f)
			set("sys/block/ublkb0/queue/wbt_lat_usec", "2000\n")(h, f)
		}, "throttling", Failure},
		"two of a volume": {func(h *Host, _ fstest.MapFS) { h.Devices = holding("/dev/nbd0", 1, "/dev/nbd1", 1) }, "devices", Failure},
		"of two kinds":    {func(h *Host, _ fstest.MapFS) { h.Devices = holding("/dev/nbd0", 1, "/dev/ublkb0", 1) }, "devices", Failure},
		"cannot tell": {func(h *Host, _ fstest.MapFS) {
			h.Devices = func() ([]blockdev.Device, error) { return nil, errors.New("the driver is broken") }
		}, "devices", Failure},
		"scheduler": {set("sys/block/nbd0/queue/scheduler", "none [mq-deadline]\n"), "queue", Failure},
	} {
		t.Run(name, func(t *testing.T) {
			h, files := well()
			c.spoil(h, files)
			found := false
			for _, f := range Examine(h) {
				if f.Verdict == OK {
					continue
				}
				if f.Why == "" || f.Fix == "" || f.Found == "" {
					t.Errorf("no reason or no way out: %+v", f)
				}
				if f.Check == c.check && f.Verdict == c.want {
					found = true
				} else if f.Check != "rights" {
					t.Errorf("found too: %+v", f)
				}
			}
			if !found {
				t.Errorf("not found: %s, %s", c.check, c.want)
			}
			if Worst(Examine(h)) == OK {
				t.Error("all is well")
			}
		})
	}
}
