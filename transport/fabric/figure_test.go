//go:build fabric && cgo

package fabric_test

import (
	"dmps/chaos/figures"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"dmps/transport"
	"dmps/transport/fabric"
	"dmps/transport/tcp"
)

var (
	figureDir    = flag.String("figure", "", "TestFigure: measure all carriers by size, and write NAME.json to this `folder`; -: report to the console (figures.Report)")
	figureRounds = flag.Int("figure-rounds", 5, "TestFigure: how often the carriers take turns")
	figureSlice  = flag.Duration("figure-slice", 50*time.Millisecond, "TestFigure: how long one size is measured at a time")
)

// mover is a carrier that is ready to transfer.
type mover interface {
	// fit is how many bytes one transfer moves when asked for size, or 0: the
	// carrier has nothing like it.
	fit(op transport.Op, size int) int
	// once does one transfer.
	once(op transport.Op, size int) error
	// several keeps depth transfers in flight for about d, and tells how many ended
	// in the later nine tenths of that, and how long those took.
	several(op transport.Op, size, depth int, d time.Duration) (n int, took time.Duration, err error)
	// cpu is what the other process has used.
	cpu() time.Duration
}

// figureSizes are those on the horizontal axis, in bytes.
func figureSizes() []int {
	sizes := []int{4, 16, 64, 256, 1 << 10}
	for s := 4 << 10; s <= 1<<20; s *= 2 {
		sizes = append(sizes, s)
	}
	return sizes
}

var carriers = map[string]func(t *testing.T) mover{
	figures.CarrierSockets: newSockets,
	figures.CarrierTCP: func(t *testing.T) mover {
		provider := "tcp"
		if os.Getenv(verbsAt) != "" {
			provider = "verbs" // by its network, too
		}
		return newRequests(t, provider, new(tcp.Dialer), "tcp")
	},
	figures.CarrierRawTCP: func(t *testing.T) mover { return newRaw(t, "tcp") },
	figures.CarrierFabTCP: func(t *testing.T) mover { return newRequests(t, "tcp", oneSided(), "fabric+tcp") },
	figures.CarrierRawShm: func(t *testing.T) mover { return newRaw(t, "shm") },
	figures.CarrierFabShm: func(t *testing.T) mover { return newRequests(t, "shm", oneSided(), "fabric+shm") },

	figures.CarrierRawVerbs: func(t *testing.T) mover { return newRaw(t, "verbs") },
	figures.CarrierFabVerbs: func(t *testing.T) mover { return newRequests(t, "verbs", oneSided(), "fabric+verbs") },
}

func oneSided() transport.Dialer { return &fabric.Dialer{Strict: true, Eager: none} }

// Without -figure the carriers are tried for a moment, so that the program keeps
// working; nothing is kept then.
func TestFigure(t *testing.T) {
	rounds, slice, figure := *figureRounds, *figureSlice, figureSizes()
	if *figureDir == "" {
		rounds, slice, figure = 1, time.Millisecond, []int{4, 256, 4 << 10, 128 << 10, 1 << 20}
	}
	name := figures.FigureTransfer
	if os.Getenv(verbsAt) != "" {
		name = figures.FigureVerbs
	}
	d := figures.Data[figures.TransferRow]{Figure: name, Started: time.Now().UTC(), Machine: figures.ThisMachine()}
	d.Host, d.Load[0] = d.Machine, figures.LoadAverage()
	d.Notes = []string{
		"two processes on one machine; all carriers of a round one after another, each with processes of its own",
		"raw libfabric: one-sided, with the settings that dmps has for the provider, both ends look without a pause (verbs: the target sleeps); sockets: one write and one read a message",
		"dmps: below 4 KiB headers of 88 bytes alone, from 4 KiB on the bytes of pages, each with a header that is not counted, above 128 KiB requests of 128 KiB at once",
	}
	for round := range rounds {
		for _, name := range figures.Carriers(d.Figure) {
			t.Run(fmt.Sprintf("%d/%s", round, name), func(t *testing.T) {
				m := carriers[name](t)
				for _, size := range figure {
					for op := transport.OpWrite; op > 0; op-- { // then OpRead
						n, opName := m.fit(op, size), [...]string{transport.OpRead: figures.Read, transport.OpWrite: figures.Write}[op]
						if n == 0 {
							continue
						}
						for _, way := range []string{figures.OneByOne, figures.Several} {
							row := figures.TransferRow{Carrier: name, Op: opName, Way: way, Asked: size, Size: n, Round: round}
							measureTransfers(t, m, op, &row, slice)
							d.Rows = append(d.Rows, row)
						}
					}
				}
			})
		}
	}
	if t.Failed() || *figureDir == "" {
		return
	}
	d.Load[1], d.Took = figures.LoadAverage(), time.Since(d.Started).Seconds()
	save := func() error { return d.Save(*figureDir) }
	if *figureDir == "-" {
		save = func() error { return report(d) }
	}
	if err := save(); err != nil {
		t.Fatal(err)
	}
}

// report says all of it on the console, from which another machine takes it.
func report(d figures.Data[figures.TransferRow]) error {
	r := figures.NewReport(os.Stdout, d.Figure)
	err := r.Line(figures.KindMachine, d.Machine)
	for _, n := range d.Notes {
		err = errors.Join(err, r.Note("%s", n))
	}
	for _, row := range d.Rows {
		err = errors.Join(err, r.Row(row))
	}
	return errors.Join(err, r.Line(figures.KindDone, d.Took))
}

// measureTransfers fills the row with what happens in about d.
func measureTransfers(t *testing.T, m mover, op transport.Op, row *figures.TransferRow, d time.Duration) {
	from, cpu := time.Now(), m.cpu()
	var took time.Duration
	var err error
	if row.Way == figures.Several {
		row.Count, took, err = m.several(op, row.Size, min(32, fabric.RawBytes/row.Size), d)
	} else {
		took, err = measureOnce(m, op, row, d)
	}
	if err != nil {
		t.Fatal(err)
	}
	if row.Count == 0 || took <= 0 {
		t.Fatalf("%d transfers in %v", row.Count, took)
	}
	// What came before the row began used as much of the processor.
	share := float64(took) / float64(time.Since(from))
	row.CPU = float64(m.cpu()-cpu) / 1e3 * share / float64(row.Count)
	row.Moved = figures.Moved{Bytes: int64(row.Size) * int64(row.Count), Seconds: took.Seconds()}
}

func measureOnce(m mover, op transport.Op, row *figures.TransferRow, d time.Duration) (time.Duration, error) {
	lasted := make([]time.Duration, 0, 1<<16)
	began := time.Now()
	for warm := true; ; {
		t0 := time.Now()
		if warm && t0.Sub(began) > d/10 {
			warm, began, lasted = false, t0, lasted[:0]
		}
		if !warm && t0.Sub(began) > d && len(lasted) >= 3 {
			break
		}
		if err := m.once(op, row.Size); err != nil {
			return 0, err
		}
		lasted = append(lasted, time.Since(t0))
	}
	took := time.Since(began)
	row.Count = len(lasted)
	slices.Sort(lasted)
	row.P50, row.Min = float64(lasted[len(lasted)/2])/1e3, float64(lasted[0])/1e3
	return took, nil
}

// flow is mover.several of carriers that start and wait in one place. end waits for
// the ends of some transfers, and says of how many.
func flow(depth int, d time.Duration, start func() error, end func() (int, error)) (n int, took time.Duration, err error) {
	began := time.Now()
	warm, until := began.Add(d/10), began.Add(d)
	for flight := 0; ; {
		now := time.Now()
		if now.After(until) && n > 0 {
			took = now.Sub(began)
			for flight > 0 && err == nil { // they do not count
				var k int
				k, err = end()
				flight -= k
			}
			return n, took, err
		}
		if n > 0 && began.Before(warm) && now.After(warm) {
			began, n = now, 0
		}
		for ; flight < depth; flight++ {
			if err := start(); err != nil {
				return n, took, err
			}
		}
		k, err := end()
		if err != nil {
			return n, took, err
		}
		flight, n = flight-k, n+k
	}
}
