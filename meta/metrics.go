package meta

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"dmps/meta/state"
)

// metrics is what /metrics shows. What describes the cluster comes from the
// leader alone, so that a sum over the nodes is right.
type metrics struct {
	registry  *prometheus.Registry
	forwarded prometheus.Counter
}

var (
	leaderDesc    = prometheus.NewDesc("dmps_meta_leader", "1 on the node that leads.", nil, nil)
	appliedDesc   = prometheus.NewDesc("dmps_meta_applied_index", "Index of the last command in the state.", nil, nil)
	fullDesc      = prometheus.NewDesc("dmps_meta_disk_full", "1 while this node waits for room on its disk: it decides nothing then.", nil, nil)
	stalledDesc   = prometheus.NewDesc("dmps_meta_disk_stalled", "1 while a write of this node takes longer than 3 s.", nil, nil)
	serverDesc    = prometheus.NewDesc("dmps_meta_servers", "Memory servers by state.", []string{"state"}, nil)
	shortDesc     = prometheus.NewDesc("dmps_meta_servers_short", "Memory servers whose hosts run short of memory: members are moved off them.", nil, nil)
	volumeDesc    = prometheus.NewDesc("dmps_meta_volumes", "Volumes by state.", []string{"state"}, nil)
	degradedDesc  = prometheus.NewDesc("dmps_meta_volume_degraded_groups", "Groups of a volume with fewer than K+M usable members.", []string{"volume"}, nil)
	leftDesc      = prometheus.NewDesc("dmps_meta_volume_redundancy_left", "Further losses that the worst group of a volume survives; below 0: data is out of reach.", []string{"volume"}, nil)
	stuckDesc     = prometheus.NewDesc("dmps_meta_volume_stuck_members", "Members of a volume that should be replaced and cannot be.", []string{"volume"}, nil)
	fillingDesc   = prometheus.NewDesc("dmps_meta_volume_filling_members", "Members of a volume that are being filled: replacements of lost ones, and of living ones that move.", []string{"volume"}, nil)
	unknownDesc   = prometheus.NewDesc("dmps_meta_volume_unknown_pages", "At most so many pages of a volume are gone of which nobody knows which they are; 0 once that is accepted.", []string{"volume"}, nil)
	totalDesc     = prometheus.NewDesc("dmps_meta_memory_bytes", "Memory of the servers that are up.", nil, nil)
	reservedDesc  = prometheus.NewDesc("dmps_meta_memory_reserved_bytes", "Memory promised to volumes on the servers that are up.", nil, nil)
	setsDesc      = prometheus.NewDesc("dmps_meta_copysets", "Combinations of servers that share groups with redundancy.", nil, nil)
	repairsDesc   = prometheus.NewDesc("dmps_meta_copysets_by_repairs", "Combinations of servers that repairs and moves made, until their members are home again.", nil, nil)
	awayDesc      = prometheus.NewDesc("dmps_meta_members_away", "Members that are not on the servers where they belong.", nil, nil)
	lossDesc      = prometheus.NewDesc("dmps_meta_loss_probability", "Probability that data is lost when one percent of the servers fail at once, and one more at least than groups survive.", nil, nil)
	refusedDesc   = prometheus.NewDesc("dmps_meta_members_refused", "Members of volumes whose servers have no memory for them, as clients say: after the grace they are placed elsewhere.", nil, nil)
	collectorDesc = []*prometheus.Desc{leaderDesc, appliedDesc, fullDesc, stalledDesc, serverDesc, shortDesc, volumeDesc, degradedDesc, leftDesc, stuckDesc, fillingDesc, unknownDesc, totalDesc, reservedDesc,
		setsDesc, repairsDesc, awayDesc, lossDesc, refusedDesc}
)

func newMetrics(n *Node) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		forwarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dmps_meta_forwarded_calls_total", Help: "API calls handed on to the leader.",
		}),
	}
	m.registry.MustRegister(m.forwarded, collector{n}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

type collector struct{ n *Node }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range collectorDesc {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(appliedDesc, float64(c.n.disks.state.Applied()))
	var full, stalled float64
	if p := c.n.peer(); p != nil {
		if c.n.diskFull(p) != nil {
			full = 1
		}
		if p.log.busy.stalled() || p.fsm.busy.stalled() {
			stalled = 1
		}
	}
	gauge(fullDesc, full)
	gauge(stalledDesc, stalled)
	c.n.mu.Lock()
	r := c.n.mu.reign
	c.n.mu.Unlock()
	if r == nil {
		gauge(leaderDesc, 0)
		return
	}
	gauge(leaderDesc, 1)
	err := c.n.disks.state.View(func(s *state.State) {
		r.mu.Lock()
		defer r.mu.Unlock()
		servers := map[string]float64{"up": 0, "suspect": 0, "down": 0}
		var total, reserved uint64
		short := 0.0
		for _, sv := range s.Servers {
			servers[sv.State.String()]++
			if sv.Short {
				short++
			}
			if sv.State == state.ServerUp {
				total += sv.MemoryTotal
				reserved += sv.Reserved
			}
		}
		for name, v := range servers {
			gauge(serverDesc, v, name)
		}
		gauge(shortDesc, short)
		gauge(totalDesc, float64(total))
		gauge(reservedDesc, float64(reserved))
		sets := s.Copysets()
		gauge(setsDesc, float64(sets.Sets))
		gauge(repairsDesc, float64(sets.Repairs))
		gauge(awayDesc, float64(sets.Away))
		gauge(lossDesc, sets.Loss)
		gauge(refusedDesc, float64(len(r.refusedLocked(s, time.Now(), 0))))
		volumes := map[string]float64{state.Healthy: 0, state.Degraded: 0, state.Failed: 0}
		for _, v := range s.SortedVolumes() {
			m := r.volumeMessageLocked(s, v, time.Now())
			for name, st := range volumeStates {
				if st == m.State {
					volumes[name]++
				}
			}
			gauge(degradedDesc, float64(m.DegradedGroups), v.Name)
			gauge(leftDesc, float64(m.RedundancyLeft), v.Name)
			gauge(stuckDesc, float64(m.StuckMembers), v.Name)
			gauge(fillingDesc, float64(m.RebuildingMembers+m.PendingMembers), v.Name)
			gauge(unknownDesc, float64(m.UnknownPages), v.Name)
		}
		for name, v := range volumes {
			gauge(volumeDesc, v, name)
		}
	})
	if err != nil {
		c.n.log.Warn("metrics", "err", err) // guard ends the node for it, or it waits for room
	}
}
