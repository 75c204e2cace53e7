package server

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the Prometheus metrics of a server.
type metrics struct {
	sessions        prometheus.Gauge
	refusedSessions prometheus.Counter
	refusedPages    prometheus.Counter
	heartbeatErrors prometheus.Counter
	all             []prometheus.Collector
}

// newMetrics registers with reg, which may be nil.
func newMetrics(s *Server, reg prometheus.Registerer) (*metrics, error) {
	m := new(metrics)
	keep := func(c prometheus.Collector) { m.all = append(m.all, c) }
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		keep(c)
		return c
	}
	m.sessions = prometheus.NewGauge(prometheus.GaugeOpts{Name: "dmps_server_sessions", Help: "Sessions of clients."})
	keep(m.sessions)
	m.refusedSessions = counter("dmps_server_sessions_refused_total", "Handshakes that were refused.")
	m.refusedPages = counter("dmps_server_pages_refused_total", "Pages that did not match their header and were not stored.")
	m.heartbeatErrors = counter("dmps_server_heartbeat_errors_total", "Registrations and heartbeats that failed.")
	for _, f := range []struct {
		name, help string
		get        func() float64
	}{
		{"dmps_server_reads_total", "Read requests.", func() float64 { return float64(s.n.reads.Load()) }},
		{"dmps_server_writes_total", "Write requests.", func() float64 { return float64(s.n.writes.Load()) }},
		{"dmps_server_slots_read_total", "Slots read.", func() float64 { return float64(s.n.pagesOut.Load()) }},
		{"dmps_server_slots_written_total", "Slots written.", func() float64 { return float64(s.n.pagesIn.Load()) }},
		{"dmps_server_rebuilt_rows_total", "Slots that were filled from other servers.", func() float64 { return float64(s.n.rebuilt.Load()) }},
		{"dmps_server_rebuild_failed_rows_total", "Slots that could not be filled from other servers.", func() float64 { return float64(s.n.rebuildFailed.Load()) }},
		{"dmps_server_rebuild_pulled_bytes_total", "Bytes that were read from other servers to rebuild or verify.", func() float64 { return float64(s.n.pulled.Load()) }},
		{"dmps_server_verified_slots_total", "Slots that were verified.", func() float64 { return float64(s.n.verified.Load()) }},
		{"dmps_server_verified_bytes_total", "Bytes of lent memory that were verified.", func() float64 { return float64(s.n.checked.Load()) }},
		{"dmps_server_accept_errors_total", "Failed attempts to accept a connection.", func() (n float64) {
			for _, l := range s.doors {
				n += float64(l.Failures())
			}
			return n
		}},
		{"dmps_server_connections_refused_total", "Connections that were refused for a limit, before they said who they are.", func() float64 {
			if s.net == nil {
				return 0
			}
			return float64(s.net.TurnedAway())
		}},
		{"dmps_server_bad_slots_total", "Slots that were verified and found wrong.", func() float64 { return float64(s.n.verifyBad.Load()) }},
	} {
		keep(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: f.name, Help: f.help}, f.get))
	}
	keep(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "dmps_server_memory_bytes", Help: "Memory to lend."},
		func() float64 { return float64(s.c.Memory) }))
	keep(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "dmps_server_memory_used_bytes", Help: "Memory that is lent."},
		func() float64 { return float64(s.Stats().MemoryUsed) }))
	keep(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "dmps_server_rebuild_memory_bytes", Help: "Buffers for rebuilds, beside the memory to lend."},
		func() float64 { return float64(s.Stats().RebuildMemory) }))
	keep(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "dmps_server_accepting", Help: "1 while new sessions are accepted; the metadata service suspects a server that accepts none."},
		func() float64 {
			if s.accepting() != nil {
				return 0
			}
			return 1
		}))
	if reg == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			for _, c := range m.all[:i] {
				reg.Unregister(c)
			}
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

// unregister lets another server use the registry.
func (m *metrics) unregister(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	for _, c := range m.all {
		reg.Unregister(c)
	}
	return nil
}
