package main

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"dmps/client"
	"dmps/raid"
)

// volumeMetrics turns a client's report into metrics when they are asked for:
// nothing is counted twice, and the page path does not know of it.
type volumeMetrics struct {
	volume string
	report func() client.Report
}

// Names are part of the interface: dashboards and alerts use them.
var (
	metricState = volumeDesc("state", "1 for the state the volume is in: healthy, degraded or failed", "state")
	gaugeDescs  = []struct {
		desc  *prometheus.Desc
		value func(*client.Report) float64
	}{
		{volumeDesc("degraded_groups", "groups with less redundancy than promised"), func(r *client.Report) float64 { return float64(r.DegradedGroups) }},
		{volumeDesc("degraded_rows", "rows in use that at least one member misses"), func(r *client.Report) float64 { return float64(r.DegradedRows) }},
		{volumeDesc("lost_pages", "pages that answer with an error"), func(r *client.Report) float64 { return float64(r.LostPages) }},
		{volumeDesc("unknown_pages", "at most so many pages are gone of which nobody knows which they are"), func(r *client.Report) float64 { return float64(r.Unknown) }},
		{volumeDesc("redundancy_left", "how many more members the worst group can lose without losing data"), func(r *client.Report) float64 { return float64(r.RedundancyLeft) }},
		{volumeDesc("suspect_servers", "memory servers of the volume that do not answer"), func(r *client.Report) float64 { return float64(len(r.Suspect)) }},
		{volumeDesc("refused_members", "members whose memory servers have no memory for them, at most 256"), func(r *client.Report) float64 { return float64(len(r.Refused)) }},
		{volumeDesc("members_on_probation", "members of servers that fall silent again and again: they are not used before a probe passes"), func(r *client.Report) float64 { return float64(r.Counters["members_on_probation"]) }},
		{volumeDesc("lease_expired_seconds", "how long ago the lease was over that could not be renewed; 0: it is valid"), func(r *client.Report) float64 { return float64(r.Counters["lease_expired_seconds"]) }},
		{volumeDesc("stored_bytes", "bytes of pages that lie on servers"), func(r *client.Report) float64 { return float64(r.MappedPages) * raid.PageSize }},
		{volumeDesc("filled_bytes", "bytes of pages that are all one byte value and lie nowhere"), func(r *client.Report) float64 { return float64(r.FilledPages) * raid.PageSize }},
		{volumeDesc("free_rows", "rows that can take new pages"), func(r *client.Report) float64 { return float64(r.FreeRows) }},
	}
)

func volumeDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("dmps_volume_"+name, help, append([]string{"volume"}, labels...), nil)
}

// Describe sends nothing: the set of counters is the client's to choose.
func (*volumeMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *volumeMetrics) Collect(ch chan<- prometheus.Metric) {
	r := m.report()
	for _, s := range []client.State{client.StateHealthy, client.StateDegraded, client.StateFailed} {
		v := 0.0
		if s == r.State {
			v = 1
		}
		ch <- prometheus.MustNewConstMetric(metricState, prometheus.GaugeValue, v, m.volume, string(s))
	}
	for _, g := range gaugeDescs {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(&r), m.volume)
	}
	m.collectScrub(ch, &r)
	for _, name := range slices.Sorted(maps.Keys(r.Counters)) {
		desc := prometheus.NewDesc("dmps_client_"+metricName(name), "counter of the client's report: "+name, []string{"volume"}, nil)
		ch <- prometheus.MustNewConstMetric(desc, prometheus.UntypedValue, float64(r.Counters[name]), m.volume)
	}
}

var notInMetricNames = regexp.MustCompile(`[^a-zA-Z0-9_]+`)

func metricName(s string) string {
	return strings.ToLower(notInMetricNames.ReplaceAllString(s, "_"))
}
