package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"dmps/client"
	"dmps/internal/hostcheck"
	"dmps/raid"
)

// adminStatus is the answer of a client's /status.
type adminStatus struct {
	Volume     string        `json:"volume"`
	Epoch      raid.Epoch    `json:"epoch"`
	Redundancy string        `json:"redundancy"`
	Layout     string        `json:"layout"`
	SizeBytes  uint64        `json:"size_bytes"`
	Groups     int           `json:"groups"`
	NBD        string        `json:"nbd,omitempty"`         // URI
	Device     string        `json:"device,omitempty"`      // path
	DeviceKind string        `json:"device_kind,omitempty"` // nbd or ublk
	Identity   string        `json:"identity,omitempty"`    // of the volume, as its device holds it
	Holder     string        `json:"holder"`
	PID        int           `json:"pid"`
	PIDSpace   string        `json:"pid_namespace,omitempty"` // in which PID counts
	Boot       string        `json:"boot_id"`                 // of the machine: detach works on the same one only
	Started    time.Time     `json:"started"`
	Locked     bool          `json:"memory_locked"`
	Version    string        `json:"version"`
	Report     client.Report `json:"report"`
}

// admin answers questions about a role over HTTP: status and metrics, whether
// it lives, and profiles when that was asked for. A client's takes two orders:
// to rebuild (attach_admin.go) and to scrub (scrub_admin.go). Web pages are kept away
// (package hostcheck).
type admin struct {
	mux   *http.ServeMux
	hosts []string // names by which it may be asked, besides addresses and those of this machine
	reg   *prometheus.Registry
	srv   *http.Server
}

func newAdmin(profiles bool, log *slog.Logger, hosts ...string) *admin {
	a := &admin{hosts: hosts, mux: http.NewServeMux(), reg: prometheus.NewRegistry()}
	a.reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	a.mux.Handle("GET /metrics", promhttp.HandlerFor(a.reg, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)}))
	if profiles {
		a.mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		a.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		a.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		a.mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		a.mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	}
	a.srv = &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return a
}

// handler is all that it answers, to programs.
func (a *admin) handler() http.Handler {
	return hostcheck.Handler(a.mux, a.hosts, "/metrics", "/healthz")
}

// answer serves v as JSON under a path.
func (a *admin) answer(path string, v func() any) {
	a.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
		b, err := json.MarshalIndent(v(), "", "  ")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// A peer that has gone away is its own affair.
		_, _ = w.Write(append(b, '\n'))
	})
}

// health serves /healthz: 200 while check is nil, 503 with its text otherwise.
func (a *admin) health(check func() error) {
	a.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
}

// serve answers on l until stop.
func (a *admin) serve(l net.Listener, log *slog.Logger) (stop func()) {
	done := make(chan struct{})
	a.srv.Handler = a.handler()
	go func() {
		defer close(done)
		if err := a.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the admin endpoint has ended", "error", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := a.srv.Shutdown(ctx); err != nil {
			// A question that is still being answered must not hold up the end.
			err = a.srv.Close()
			log.Debug("admin endpoint closed with a request open", "error", err)
		}
		<-done
	}
}
