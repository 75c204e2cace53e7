package paper

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// VM are counters of the kernel's memory management, of the whole machine, from
// /proc/vmstat.
type VM struct {
	SwapIn        int64 `json:"swap_in"`        // pages read from swap devices (pswpin)
	SwapOut       int64 `json:"swap_out"`       // pages written (pswpout)
	Ahead         int64 `json:"ahead"`          // pages of these that nobody had asked for yet (swap_ra)
	AheadHit      int64 `json:"ahead_hit"`      // of those, how many were asked for before they were dropped (swap_ra_hit)
	MajorFaults   int64 `json:"major_faults"`   // faults that waited for a device (pgmajfault)
	Refaults      int64 `json:"refaults"`       // faults on anonymous pages that were dropped shortly before (workingset_refault_anon)
	DirectReclaim int64 `json:"direct_reclaim"` // times that a process had to look for free memory itself (allocstall_*)
}

// ReadVM reads the counters of this machine.
func ReadVM() (VM, error) {
	f, err := os.Open("/proc/vmstat")
	if err != nil {
		return VM{}, fmt.Errorf("counters of the kernel: %w", err)
	}
	defer f.Close() // nothing was written
	return parseVM(f)
}

func parseVM(r io.Reader) (VM, error) {
	var v VM
	names := map[string]*int64{
		"pswpin": &v.SwapIn, "pswpout": &v.SwapOut, "swap_ra": &v.Ahead, "swap_ra_hit": &v.AheadHit,
		"pgmajfault": &v.MajorFaults, "workingset_refault_anon": &v.Refaults,
	}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		name, value, _ := strings.Cut(sc.Text(), " ")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return v, fmt.Errorf("counters of the kernel: %s: %w", name, err)
		}
		if p := names[name]; p != nil {
			*p = n
			delete(names, name)
		}
		if strings.HasPrefix(name, "allocstall_") {
			v.DirectReclaim += n
		}
	}
	if err := sc.Err(); err != nil {
		return v, fmt.Errorf("counters of the kernel: %w", err)
	}
	for name := range names {
		return v, fmt.Errorf("counters of the kernel: there is no %s: is swap built in?", name)
	}
	return v, nil
}

// Sub is what happened between o and v.
func (v VM) Sub(o VM) VM {
	return VM{
		SwapIn: v.SwapIn - o.SwapIn, SwapOut: v.SwapOut - o.SwapOut, Ahead: v.Ahead - o.Ahead, AheadHit: v.AheadHit - o.AheadHit,
		MajorFaults: v.MajorFaults - o.MajorFaults, Refaults: v.Refaults - o.Refaults, DirectReclaim: v.DirectReclaim - o.DirectReclaim,
	}
}

// Disk are counters of one block device.
type Disk struct {
	Reads      int64   `json:"reads"`      // requests, after merging
	ReadBytes  int64   `json:"read_bytes"` //
	ReadWait   float64 `json:"read_wait"`  // seconds that requests waited, added up
	Writes     int64   `json:"writes"`
	WriteBytes int64   `json:"write_bytes"`
	WriteWait  float64 `json:"write_wait"`
}

// ReadDisk reads the counters of the device at path, such as /dev/vda.
func ReadDisk(path string) (Disk, error) {
	file := filepath.Join("/sys/class/block", filepath.Base(path), "stat")
	b, err := os.ReadFile(file)
	if err != nil {
		return Disk{}, fmt.Errorf("counters of %s: %w", path, err)
	}
	d, err := parseDisk(string(b))
	if err != nil {
		return d, fmt.Errorf("counters of %s: %w", path, err)
	}
	return d, nil
}

// parseDisk reads the line that Documentation/block/stat.rst describes: reads,
// merged, sectors of 512 bytes, milliseconds, and the same for writes.
func parseDisk(s string) (Disk, error) {
	f := strings.Fields(s)
	if len(f) < 8 {
		return Disk{}, fmt.Errorf("%d fields in %q", len(f), s)
	}
	var n [8]int64
	for i := range n {
		v, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return Disk{}, err
		}
		n[i] = v
	}
	return Disk{
		Reads: n[0], ReadBytes: n[2] * 512, ReadWait: float64(n[3]) / 1e3,
		Writes: n[4], WriteBytes: n[6] * 512, WriteWait: float64(n[7]) / 1e3,
	}, nil
}

// Sub is what happened between o and d.
func (d Disk) Sub(o Disk) Disk {
	return Disk{
		Reads: d.Reads - o.Reads, ReadBytes: d.ReadBytes - o.ReadBytes, ReadWait: d.ReadWait - o.ReadWait,
		Writes: d.Writes - o.Writes, WriteBytes: d.WriteBytes - o.WriteBytes, WriteWait: d.WriteWait - o.WriteWait,
	}
}
