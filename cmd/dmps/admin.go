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
	return serveHTTP(l, a.handler(), log)
}

// serveMetrics answers on l what everybody may know: metrics and health.
func (a *admin) serveMetrics(l net.Listener, log *slog.Logger) (stop func()) {
	open := http.NewServeMux()
	open.Handle("GET /metrics", a.mux)
	open.Handle("GET /healthz", a.mux)
	return serveHTTP(l, hostcheck.Handler(open, a.hosts, "/metrics", "/healthz"), log)
}

func serveHTTP(l net.Listener, h http.Handler, log *slog.Logger) (stop func()) {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("an HTTP address has ended", "addr", l.Addr().String(), "error", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			// A question that is still being answered must not hold up the end.
			err = srv.Close()
			log.Debug("an HTTP address was closed with a request open", "error", err)
		}
		<-done
	}
}
