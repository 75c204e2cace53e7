package heal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"dmps/chaos/cluster"
	"dmps/client"
	"dmps/internal/bytesize"
	"dmps/internal/loadgen"
	"dmps/internal/nbdclient"
	"dmps/meta/metaclient"
	"dmps/raid"
)

// Plan says what to measure.
type Plan struct {
	Bin     string // the dmps program, absolute path
	Servers int
	Size    bytesize.Size
	Geo     raid.Geometry
	Dead    []int         // how many servers are killed, one run for each, with and without the guard
	Time    time.Duration // of the measurements without a rebuild
	Depth   int           // page-ins of 4 KiB in flight
	Faults  int           // kills and freezes of which the longest request is taken; 0: none
	Log     io.Writer     // is told what goes on
}

// Latency is of page-ins of 4 KiB.
type Latency struct {
	Requests  uint64        `json:"requests"`
	PerSecond float64       `json:"per_second"`
	P50       time.Duration `json:"p50_ns"`
	P99       time.Duration `json:"p99_ns"`
	Max       time.Duration `json:"max_ns"`
}

func latencyOf(h *loadgen.Histogram, took time.Duration) Latency {
	return Latency{h.Count(), float64(h.Count()) / took.Seconds(), h.Quantile(0.5), h.Quantile(0.99), h.Max()}
}

// Rebuild is one loss and its rebuild.
type Rebuild struct {
	Dead     int           `json:"dead_servers"`
	Guard    string        `json:"guard"`
	Healthy  Latency       `json:"healthy"`
	Degraded Latency       `json:"degraded"` // before the rebuild began
	During   Latency       `json:"during"`
	Took     time.Duration `json:"took_ns"`
	Pulled   int64         `json:"pulled_bytes"`
}

// Report is what was measured.
type Report struct {
	StreamBytes float64         `json:"stream_bytes_per_second"` // one TCP stream of messages of 128 KiB
	Idle        Rebuild         `json:"idle"`                    // a rebuild without any load; its latencies are empty
	Rebuilds    []Rebuild       `json:"rebuilds"`
	Stalls      []time.Duration `json:"stalls_ns"` // longest request of each fault, in order
}

// BytesPerSecond is what the servers pulled.
func (r *Rebuild) BytesPerSecond() float64 { return float64(r.Pulled) / r.Took.Seconds() }

// rebuildLimit bounds one rebuild.
const rebuildLimit = 3 * time.Minute

// Run measures.
func Run(ctx context.Context, p Plan) (Report, error) {
	var r Report
	var err error
	if r.StreamBytes, err = stream(time.Second); err != nil {
		return r, fmt.Errorf("measuring a plain TCP stream: %w", err)
	}
	fmt.Fprintf(p.Log, "one TCP stream of 128 KiB messages: %.0f MiB/s\n", r.StreamBytes/(1<<20))
	if r.Idle, err = p.rebuild(ctx, 1, "on", false); err != nil {
		return r, err
	}
	for _, dead := range p.Dead {
		for _, guard := range []string{"on", "strict", "off"} {
			if guard == "strict" && dead < p.Geo.M {
				continue // the same as on, while a further loss can be borne
			}
			one, err := p.rebuild(ctx, dead, guard, true)
			if err != nil {
				return r, err
			}
			r.Rebuilds = append(r.Rebuilds, one)
		}
	}
	if p.Faults > 0 {
		r.Stalls, err = p.stalls(ctx)
	}
	return r, err
}

// running is a cluster with a volume full of data.
type running struct {
	*cluster.Cluster
	file cluster.File
	conn *nbdclient.Conn
	meta *metaclient.Client
	dir  string
}

func (p *Plan) start(ctx context.Context, guard string, size bytesize.Size) (*running, error) {
	dir, err := os.MkdirTemp("", "heal-")
	if err != nil {
		return nil, err
	}
	addr, err := nbdclient.ParseListen("unix:" + dir + "/nbd.sock")
	if err != nil {
		return nil, err
	}
	// Two servers' share is to fit on the others.
	memory := size * bytesize.Size(p.Geo.Members()) / bytesize.Size(p.Geo.K) * 3 / bytesize.Size(p.Servers-2)
	c, err := cluster.Start(ctx, cluster.Config{
		Bin: p.Bin, Dir: dir, Meta: 1, Servers: p.Servers, ServerMemory: max(memory, 64*bytesize.MiB), Redundancy: p.Geo, Size: size,
		Volume: "v", NBD: addr, RoleArgs: []string{"--log-level", "error"},
		ClientArgs: []string{"--rebuild-guard=" + guard, "--allow-swappable"}, ServerArgs: []string{"--allow-swappable"},
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	r := &running{Cluster: c, file: c.File(), dir: dir}
	if r.meta, err = metaclient.New(r.file.MetaURLs); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	to, err := nbdclient.ParseURI(r.file.NBD)
	if err == nil {
		r.conn, err = nbdclient.Dial(ctx, to)
	}
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	block, data := make([]byte, 1<<20), loadgen.Data{Seed: 1}
	for off := int64(0); off < r.conn.Size(); off += int64(len(block)) {
		for at := 0; at < len(block); at += loadgen.PageSize {
			data.Fill(block[at:at+loadgen.PageSize], uint64(off+int64(at))/loadgen.PageSize, 1)
		}
		if _, err := r.conn.WriteAt(block, off); err != nil {
			return nil, errors.Join(fmt.Errorf("filling the volume: %w", err), r.stop())
		}
	}
	return r, nil
}

func (r *running) stop() error {
	var errs []error
	if r.conn != nil {
		errs = append(errs, r.conn.Close())
	}
	if r.meta != nil {
		r.meta.Close()
	}
	return errors.Join(append(errs, r.Stop(), os.RemoveAll(r.dir))...)
}

func (p *Plan) job(size int64, d time.Duration) loadgen.Job {
	return loadgen.Job{Random: true, Block: raid.PageSize, Depth: p.Depth, Span: size, Time: d, Seed: 7}
}

// whole asks for a rebuild of what is missing, and whether nothing is.
func (r *running) whole(ctx context.Context) (bool, *client.Report, error) {
	a, err := r.meta.Rebuild(ctx, "v")
	if err != nil {
		return false, nil, err
	}
	live, err := adminReport(ctx, r.file.Client.Admin)
	if err != nil {
		return false, nil, err
	}
	v := a.Volume
	return v.State == client.StateHealthy && v.Rebuilding == 0 && live.State == client.StateHealthy && live.Rebuild == nil, live, nil
}

// rebuild kills servers, measures, has them rebuilt, and measures meanwhile.
func (p *Plan) rebuild(ctx context.Context, dead int, guard string, load bool) (res Rebuild, err error) {
	res = Rebuild{Dead: dead, Guard: guard}
	fmt.Fprintf(p.Log, "%d of %d servers die; guard %s, load %v\n", dead, p.Servers, guard, load)
	r, err := p.start(ctx, guard, p.Size)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	measure := func(d time.Duration) (Latency, error) {
		if !load {
			return Latency{}, nil
		}
		l, err := loadgen.Run(ctx, r.conn, p.job(r.conn.Size(), d))
		if err != nil {
			return Latency{}, err
		}
		return latencyOf(&l.Latency, l.Elapsed), nil
	}
	if res.Healthy, err = measure(p.Time); err != nil {
		return res, err
	}
	for _, s := range r.file.Servers[:dead] {
		if err := r.Kill(s.ID); err != nil {
			return res, err
		}
	}
	// Until meta suspects them, and nobody stumbles over them any more.
	time.Sleep(3 * time.Second)
	if res.Degraded, err = measure(p.Time); err != nil {
		return res, err
	}
	before, err := adminReport(ctx, r.file.Client.Admin)
	if err != nil {
		return res, err
	}
	ctx, cancel := context.WithTimeout(ctx, rebuildLimit)
	defer cancel()
	lctx, endLoad := context.WithCancel(ctx)
	defer endLoad()
	type part struct {
		l   *loadgen.Result
		err error
	}
	loaded := make(chan part, 1)
	if load {
		go func() {
			l, err := loadgen.Run(lctx, r.conn, p.job(r.conn.Size(), rebuildLimit))
			loaded <- part{l, err}
		}()
	}
	var live *client.Report
	if res.Took, live, err = r.rebuild(ctx); err != nil {
		return res, err
	}
	res.Pulled = live.Counters["rebuild_pulled_bytes"] - before.Counters["rebuild_pulled_bytes"]
	endLoad()
	if load {
		got := <-loaded
		if got.err != nil {
			return res, got.err
		}
		res.During = latencyOf(&got.l.Latency, got.l.Elapsed)
	}
	return res, nil
}

// rebuild has what is missing filled, and gives how long that took and how the volume
// is then.
func (r *running) rebuild(ctx context.Context) (took time.Duration, live *client.Report, err error) {
	if _, err := r.meta.Rebuild(ctx, "v"); err != nil {
		return 0, nil, err
	}
	if err := wake(ctx, r.file.Client.Admin); err != nil {
		return 0, nil, err
	}
	begin := time.Now()
	for begun := false; ; time.Sleep(20 * time.Millisecond) {
		if live, err = adminReport(ctx, r.file.Client.Admin); err != nil {
			return 0, nil, err
		}
		if !begun && live.Rebuild != nil {
			begun, begin = true, time.Now()
		}
		if begun && live.Rebuild == nil && live.State == client.StateHealthy {
			return time.Since(begin), live, nil
		}
	}
}

// stalls kills and freezes servers in turn beside page-ins, and takes the
// longest request of each fault.
func (p *Plan) stalls(ctx context.Context) (longest []time.Duration, err error) {
	r, err := p.start(ctx, "on", 64*bytesize.MiB)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	for i := range p.Faults {
		s := r.file.Servers[i%p.Servers]
		fmt.Fprintf(p.Log, "fault %d of %d\n", i+1, p.Faults)
		faulted := make(chan error, 1)
		go func() {
			time.Sleep(200 * time.Millisecond)
			if i%2 == 0 {
				faulted <- r.Kill(s.ID)
				return
			}
			pid := pidOf(r.Cluster, s.ID)
			err := syscall.Kill(pid, syscall.SIGSTOP)
			time.Sleep(700 * time.Millisecond)
			faulted <- errors.Join(err, syscall.Kill(pid, syscall.SIGCONT))
		}()
		l, err := loadgen.Run(ctx, r.conn, p.job(r.conn.Size(), time.Second))
		if err := errors.Join(err, <-faulted); err != nil {
			return longest, fmt.Errorf("fault %d: %w", i+1, err)
		}
		longest = append(longest, l.Latency.Max())
		if i%2 == 0 {
			if err := r.Restart(s.ID); err != nil {
				return longest, err
			}
		}
		for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			ok, _, err := r.whole(ctx)
			if err != nil {
				return longest, err
			}
			if ok {
				break
			}
			if time.Since(begin) > rebuildLimit {
				return longest, fmt.Errorf("fault %d: not whole again after %v", i+1, rebuildLimit)
			}
		}
	}
	return longest, nil
}

func pidOf(c *cluster.Cluster, id string) int {
	f := c.File()
	for _, r := range f.Roles() {
		if r.ID == id {
			return r.PID
		}
	}
	return 0
}

// stream is what one TCP stream of messages of 128 KiB moves in a second.
func stream(d time.Duration) (float64, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 128<<10))
			err = errors.Join(err, c.Close())
		}
		got <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, err
	}
	msg, sent, begin := make([]byte, 128<<10), 0, time.Now()
	for time.Since(begin) < d {
		n, err := c.Write(msg)
		if err != nil {
			return 0, errors.Join(err, c.Close())
		}
		sent += n
	}
	took := time.Since(begin)
	return float64(sent) / took.Seconds(), errors.Join(c.Close(), <-got)
}
