package main

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"dmps/client"
)

var (
	metricBadSlots     = volumeDesc("bad_slots_total", "slots found wrong by reads and scrubs, by the server that held them", "server")
	metricScrubRunning = volumeDesc("scrub_running", "1 while a scrub runs")
	metricScrubShare   = volumeDesc("scrub_progress_ratio", "share of the rows that the scrub which runs has seen")
	lastScrubDescs     = []struct {
		desc  *prometheus.Desc
		value func(*client.ScrubStatus) float64
	}{
		{volumeDesc("last_scrub_timestamp_seconds", "when the last scrub went through"), func(s *client.ScrubStatus) float64 { return float64(s.Finished.UnixMilli()) / 1e3 }},
		{volumeDesc("last_scrub_verified_slots", "slots that the last scrub verified"), func(s *client.ScrubStatus) float64 { return float64(s.SlotsVerified) }},
		{volumeDesc("last_scrub_skipped_slots", "slots that the last scrub could not verify"), func(s *client.ScrubStatus) float64 { return float64(s.SlotsSkipped) }},
		{volumeDesc("last_scrub_bad_slots", "slots that the last scrub found wrong"), func(s *client.ScrubStatus) float64 { return float64(s.BadSlots) }},
		{volumeDesc("last_scrub_unrepairable_slots", "slots that the last scrub could not repair"), func(s *client.ScrubStatus) float64 { return float64(s.Unrepairable) }},
	}
)

// collectScrub sends what a report says of scrubs and bad slots.
func (m *volumeMetrics) collectScrub(ch chan<- prometheus.Metric, r *client.Report) {
	running, share := 0.0, 0.0
	if s := r.Scrub; s != nil && s.Running {
		running = 1
		if s.RowsTotal > 0 {
			share = min(1, float64(s.RowsDone)/float64(s.RowsTotal))
		}
	}
	ch <- prometheus.MustNewConstMetric(metricScrubRunning, prometheus.GaugeValue, running, m.volume)
	ch <- prometheus.MustNewConstMetric(metricScrubShare, prometheus.GaugeValue, share, m.volume)
	if r.LastScrub != nil {
		for _, d := range lastScrubDescs {
			ch <- prometheus.MustNewConstMetric(d.desc, prometheus.GaugeValue, d.value(r.LastScrub), m.volume)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.BadSlots)) {
		ch <- prometheus.MustNewConstMetric(metricBadSlots, prometheus.CounterValue, float64(r.BadSlots[id]), m.volume, string(id))
	}
}
