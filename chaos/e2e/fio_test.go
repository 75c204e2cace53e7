package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"dmps/chaos/e2e/rig"
)

// fioRun is fio verifying what it wrote, in the background.
type fioRun struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  bytes.Buffer
	diag bytes.Buffer
	done chan error
}

// startFio writes random pages in one half of the volume and long runs in the
// other, with a checksum in each block, reads back behind itself all the time, and
// everything once more at the end.
func startFio(t *testing.T, c *cluster, runtime time.Duration) *fioRun {
	t.Helper()
	needTool(t, "fio")
	ctx, cancel := context.WithTimeout(t.Context(), runtime+time.Minute)
	t.Cleanup(cancel)
	half := fmt.Sprint(128 * mib)
	common := []string{
		"--thread", "--ioengine=nbd", "--uri=" + c.NBD, "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
		"--verify_state_save=0", "--verify_backlog=1024", "--time_based", fmt.Sprintf("--runtime=%d", int(runtime.Seconds())),
		"--output-format=json", "--randrepeat=0", "--percentile_list=50:99:99.9:99.99", "--size=" + half,
	}
	f := &fioRun{t: t, done: make(chan error, 1)}
	f.cmd = exec.CommandContext(ctx, "fio", append(common,
		"--name=pages", "--rw=randwrite", "--bs=4k", "--iodepth=32", "--offset=0",
		"--name=runs", "--rw=write", "--bs=128k", "--iodepth=4", "--offset="+half)...)
	f.cmd.WaitDelay = time.Second
	f.cmd.Stdout, f.cmd.Stderr = &f.out, &f.diag
	must(t, f.cmd.Start())
	go func() { f.done <- f.cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		if f.done != nil {
			<-f.done
		}
	})
	return f
}

// flawless waits for the end, and demands no error and no long stall.
func (f *fioRun) flawless() {
	f.t.Helper()
	err := <-f.done
	f.done = nil
	if err != nil {
		f.t.Fatalf("fio: %v\n%s", err, fioMessages(f.diag.String()+f.out.String()))
	}
	type direction struct {
		TotalIOs int64 `json:"total_ios"`
		Clat     struct {
			Max        int64
			Percentile map[string]int64
		} `json:"clat_ns"`
	}
	var res struct {
		Jobs []struct {
			Name        string `json:"jobname"`
			Error       int
			Read, Write direction
		}
	}
	out := f.out.Bytes()
	if i := bytes.IndexByte(out, '{'); i < 0 || json.NewDecoder(bytes.NewReader(out[i:])).Decode(&res) != nil {
		f.t.Fatalf("fio printed no JSON:\n%s", out)
	}
	if len(res.Jobs) != 2 {
		f.t.Fatalf("fio reports %d jobs", len(res.Jobs))
	}
	for _, j := range res.Jobs {
		if j.Error != 0 {
			f.t.Errorf("fio job %s ended with errno %d", j.Name, j.Error)
		}
		for op, d := range map[string]direction{"read": j.Read, "write": j.Write} {
			if d.TotalIOs == 0 {
				f.t.Errorf("fio job %s did no %s", j.Name, op)
			}
			us := func(ns int64) time.Duration { return time.Duration(ns).Round(time.Microsecond) }
			p := d.Clat.Percentile
			f.t.Logf("fio %-5s %-5s: %7d requests, p50 %v, p99 %v, p99.9 %v, p99.99 %v, max %v", j.Name, op, d.TotalIOs,
				us(p["50.000000"]), us(p["99.000000"]), us(p["99.900000"]), us(p["99.990000"]), us(d.Clat.Max))
			if time.Duration(d.Clat.Max) > maxStall {
				f.t.Errorf("fio job %s: a %s took %v, more than %v", j.Name, op, us(d.Clat.Max), maxStall)
			}
		}
	}
}

// fioMessages leaves out the JSON.
func fioMessages(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "fio: ") || strings.HasPrefix(line, "verify: ") || strings.Contains(line, "error") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// fioFaults hurts the servers while fio runs. Between the blows there is time
// for the volume to notice.
func fioFaults(t *testing.T, scheme func(*rig.DevConfig), blow func(c *cluster, i int) error) {
	needTool(t, "fio")
	c := start(t, scheme)
	const runtime = 5 * time.Second
	f := startFio(t, c, runtime)
	for i := range losses {
		select {
		case err := <-f.done:
			f.done = nil
			t.Fatalf("fio ended too early: %v\n%s", err, fioMessages(f.diag.String()+f.out.String()))
		case <-time.After(runtime / (losses + 1)):
		}
		must(t, blow(c, i))
	}
	f.flawless()
}

func TestFioVerifyWhileServersAreKilled(t *testing.T) {
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			fioFaults(t, scheme, func(c *cluster, i int) error { return c.Kill(c.Servers[2*i]) })
		})
	}
}

func TestFioVerifyWhileServersAreFrozen(t *testing.T) {
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			fioFaults(t, scheme, func(c *cluster, i int) error {
				s := c.Servers[2*i+1]
				if err := c.Freeze(s); err != nil {
					return err
				}
				if i == losses-1 { // the first one comes back
					time.Sleep(500 * time.Millisecond)
					return c.Thaw(c.Servers[1])
				}
				return nil
			})
		})
	}
}

// The harness itself finds nothing wrong with a server that is right.
func TestFioVerifyUndisturbed(t *testing.T) {
	needTool(t, "fio")
	startFio(t, start(t), 2*time.Second).flawless()
}
