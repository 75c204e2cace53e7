package nbd_test

import (
	"bytes"
	"dmps/client/devicetest"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"dmps/client/nbd"
)

// serve serves dev as the only export on a unix socket and returns the URI.
func serve(tb testing.TB, cfg nbd.Config) (*nbd.Server, string) {
	tb.Helper()
	l, err := nbd.Listen("unix:" + filepath.Join(tb.TempDir(), "nbd"))
	if err != nil {
		tb.Fatal(err)
	}
	return serveOn(tb, l, cfg)
}

func serveOn(tb testing.TB, l net.Listener, cfg nbd.Config) (*nbd.Server, string) {
	tb.Helper()
	s, err := nbd.NewServer(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- s.Serve(l) }()
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
		if err := <-over; err != nbd.ErrServerClosed {
			tb.Errorf("Serve: %v", err)
		}
	})
	return s, nbd.URI(l.Addr(), "")
}

func exports(d *devicetest.Device) map[string]nbd.Export {
	return map[string]nbd.Export{"vol": {Device: d}}
}

// BenchmarkFio is fio's nbd engine against this server over a device in
// memory, and against nbdkit's memory plugin, in the same run.
func BenchmarkFio(b *testing.B) {
	for _, tool := range []string{"fio", "nbdkit"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skipf("%s is not installed", tool)
		}
	}
	for _, job := range []struct {
		rw, bs string
		depth  int
	}{
		{"randread", "4k", 32}, {"randwrite", "4k", 32}, {"randread", "4k", 1}, {"randwrite", "4k", 1},
		{"read", "128k", 32}, {"write", "128k", 32},
	} {
		b.Run(fmt.Sprintf("%s-%s-%d", job.rw, job.bs, job.depth), func(b *testing.B) {
			dev := devicetest.New(b, devicetest.NewDisk(256<<20), 16384, true)
			_, uri := serve(b, nbd.Config{Exports: exports(dev)})
			sock := filepath.Join(b.TempDir(), "nbdkit")
			kit := exec.Command("nbdkit", "-f", "-U", sock, "memory", "256M")
			if err := kit.Start(); err != nil {
				b.Fatal(err)
			}
			defer func() {
				_ = kit.Process.Kill()
				_ = kit.Wait() // killed
			}()
			for {
				if _, err := os.Stat(sock); err == nil {
					break
				}
			}
			kitURI := "nbd+unix:///?socket=" + sock
			for _, u := range []string{uri, kitURI} {
				fio(b, u, "write", "1m", 8, "--size=256m")
			}
			b.ResetTimer()
			var ours, theirs float64 // in turns, since other load on the machine comes and goes
			for range b.N {
				ours += fio(b, uri, job.rw, job.bs, job.depth, "--time_based", "--runtime=1")
				theirs += fio(b, kitURI, job.rw, job.bs, job.depth, "--time_based", "--runtime=1")
			}
			b.ReportMetric(ours/float64(b.N), "iops")
			b.ReportMetric(theirs/float64(b.N), "nbdkit-iops")
			b.ReportMetric(ours/theirs, "x-nbdkit")
		})
	}
}

func fio(b *testing.B, uri, rw, bs string, depth int, more ...string) (iops float64) {
	b.Helper()
	cmd := exec.Command("fio", append([]string{"--name=j", "--ioengine=nbd", "--uri=" + uri, "--rw=" + rw, "--bs=" + bs,
		fmt.Sprintf("--iodepth=%d", depth), "--size=256m", "--randrepeat=0", "--output-format=json", "--norandommap"}, more...)...)
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("fio: %v\n%s", err, out)
	}
	var r struct {
		Jobs []struct {
			Error       int
			Read, Write struct{ IOPS float64 }
		}
	}
	// The engine writes a greeting to stdout first.
	if err := json.Unmarshal(out[max(0, bytes.IndexByte(out, '{')):], &r); err != nil {
		b.Fatalf("fio's output: %v\n%s", err, out)
	}
	return r.Jobs[0].Read.IOPS + r.Jobs[0].Write.IOPS
}
