package main

import (
	"testing"

	"dmps/client"
	"dmps/meta/metaclient"
)

func TestCarriersOf(t *testing.T) {
	tcp, verbs := metaclient.Server{Addr: "tcp://h:1"}, metaclient.Server{Addr: "fabric+verbs+tcp://h:1"}
	for _, c := range []struct {
		counters map[string]int64
		servers  []metaclient.Server
		want     string
		less     bool
	}{
		{nil, []metaclient.Server{verbs}, "", false},
		{map[string]int64{"sessions_tcp": 3, "sessions_lost": 1}, []metaclient.Server{tcp, tcp}, "", false},
		{map[string]int64{"sessions_tcp": 3, "rails": 5, "rails_down": 1}, []metaclient.Server{tcp}, "tcp to 3 servers, by 5 of 6 rails", true},
		{map[string]int64{"sessions_tcp": 3, "rails": 6}, []metaclient.Server{tcp}, "tcp to 3 servers, by 6 of 6 rails", false},
		{map[string]int64{"sessions_fabric_verbs": 2, "sessions_tcp": 1}, []metaclient.Server{verbs, tcp}, "fabric+verbs to 2 servers, tcp to 1 server", false},
		{map[string]int64{"sessions_fabric_verbs": 2, "sessions_tcp": 1}, []metaclient.Server{verbs, verbs}, "fabric+verbs to 2 servers, tcp to 1 server", true},
		{map[string]int64{"sessions_tcp": 2}, []metaclient.Server{verbs}, "tcp to 2 servers", true},
	} {
		got, less := carriersOf(&client.Report{Counters: c.counters}, c.servers)
		if got != c.want || less != c.less {
			t.Errorf("%v: %q, %v", c.counters, got, less)
		}
	}
	if got, _ := carriersOf(nil, []metaclient.Server{verbs}); got != "" {
		t.Error(got)
	}
}
