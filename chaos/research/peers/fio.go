package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Latency of completed requests.
type Latency struct {
	P50  time.Duration `json:"p50_ns"`
	P99  time.Duration `json:"p99_ns"`
	P999 time.Duration `json:"p999_ns"`
	Max  time.Duration `json:"max_ns"`
}

// FioResult is what one fio job measured in one direction.
type FioResult struct {
	Ops     int64   // requests completed
	IOPS    float64 // requests a second
	Bytes   float64 // bytes a second
	Latency Latency // from submission to completion
}

// fioArgs is fio's command line for a cell. Pages are random: fio fills
// its buffers once from a random source and then changes a few bytes of
// every 512 for each request (scramble_buffers, on by default), so that no
// page is all one value or equal to another. Writing fresh random data each time
// (refill_buffers) would take a third of the driver's CPU and hide the servers.
func fioArgs(uri string, c Cell, size int64, runtime time.Duration, seed int) []string {
	return append(fioCommon(uri, c.fioRW(), c.Block, c.Depth, size),
		"--time_based", "--runtime="+strconv.FormatInt(runtime.Milliseconds(), 10)+"ms",
		"--randrepeat=0", "--randseed="+strconv.Itoa(seed),
	)
}

// fillArgs writes all of a device once, with fresh random data.
func fillArgs(uri string, size int64, seed int) []string {
	return append(fioCommon(uri, "write", Large, 8, size), "--refill_buffers", "--randrepeat=0", "--randseed="+strconv.Itoa(seed))
}

func fioCommon(uri, rw string, block, depth int, size int64) []string {
	return []string{
		"--name=peers", "--thread", "--ioengine=nbd", "--uri=" + uri,
		"--rw=" + rw, "--bs=" + strconv.Itoa(block), "--iodepth=" + strconv.Itoa(depth),
		"--size=" + strconv.FormatInt(size, 10),
		"--percentile_list=50:99:99.9", "--output-format=json",
	}
}

// runFio runs fio to its end and parses what it prints. fio's own CPU time is
// the second result.
func runFio(ctx context.Context, args []string) (FioResult, time.Duration, error) {
	cmd := exec.CommandContext(ctx, "fio", args...)
	cmd.WaitDelay = 2 * time.Second
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	runErr := cmd.Run()
	res, err := ParseFio(out.Bytes())
	if err := errors.Join(runErr, err); err != nil {
		return FioResult{}, 0, fmt.Errorf("fio: %w: %s", err, lastLine(diag.String()+out.String()))
	}
	return res, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// lastLine is the last line of fio's messages that is not JSON: its reason.
func lastLine(s string) string {
	last := ""
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "fio: ") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

// fioJSON is the part of fio's output that is read; fio 3.x, see
// "JSON output" in fio(1).
type fioJSON struct {
	Jobs []struct {
		Error int            `json:"error"`
		Read  fioDirectional `json:"read"`
		Write fioDirectional `json:"write"`
	} `json:"jobs"`
}

type fioDirectional struct {
	TotalIOs int64   `json:"total_ios"`
	IOPS     float64 `json:"iops"`
	Bytes    float64 `json:"bw_bytes"`
	Clat     struct {
		Max        int64            `json:"max"`
		Percentile map[string]int64 `json:"percentile"`
	} `json:"clat_ns"`
}

// ParseFio reads the JSON of one fio run with one job in one direction. What
// fio prints before the JSON (warnings) is skipped. A job with an error, with
// no requests or in both directions is an error.
func ParseFio(out []byte) (FioResult, error) {
	start := bytes.IndexByte(out, '{')
	if start < 0 {
		return FioResult{}, errors.New("fio printed no JSON")
	}
	var j fioJSON
	// A decoder, not Unmarshal: fio may print more behind the JSON.
	if err := json.NewDecoder(bytes.NewReader(out[start:])).Decode(&j); err != nil {
		return FioResult{}, fmt.Errorf("fio's JSON: %w", err)
	}
	if len(j.Jobs) != 1 {
		return FioResult{}, fmt.Errorf("fio reports %d jobs, want 1", len(j.Jobs))
	}
	job := j.Jobs[0]
	if job.Error != 0 {
		return FioResult{}, fmt.Errorf("fio's job ended with errno %d", job.Error)
	}
	d := job.Read
	switch r, w := job.Read.TotalIOs, job.Write.TotalIOs; {
	case r == 0 && w == 0:
		return FioResult{}, errors.New("fio completed no request")
	case r != 0 && w != 0:
		return FioResult{}, fmt.Errorf("fio both read (%d) and wrote (%d)", r, w)
	case w != 0:
		d = job.Write
	}
	res := FioResult{Ops: d.TotalIOs, IOPS: d.IOPS, Bytes: d.Bytes, Latency: Latency{Max: time.Duration(d.Clat.Max)}}
	for _, p := range []struct {
		key string
		to  *time.Duration
	}{{"50.000000", &res.Latency.P50}, {"99.000000", &res.Latency.P99}, {"99.900000", &res.Latency.P999}} {
		v, ok := d.Clat.Percentile[p.key]
		if !ok {
			return FioResult{}, fmt.Errorf("fio reports no percentile %s", p.key)
		}
		*p.to = time.Duration(v)
	}
	return res, nil
}
