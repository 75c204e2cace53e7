package meta

import (
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"dmps/internal/hostcheck"
	"dmps/meta/metaclient"
	"dmps/meta/metapb"
	"dmps/meta/metapb/metapbconnect"
)

const (
	maxRequest = 16 << 20 // bytes: a heartbeat that lists all chunks of 64 TiB in 1 MiB chunks, and much more than any other call

	// authHeader is the place of authentication. It must be empty or absent:
	// a caller that believes to be authenticated is told that it is not.
	authHeader = "Dmps-Auth"
	// hopHeader marks a call that a node handed on, so that it is not handed
	// on again.
	hopHeader = "Dmps-Forwarded-By"
)

// handler is everything that the API's listener serves.
func (n *Node) handler() http.Handler {
	mux := http.NewServeMux()
	opts := connect.WithHandlerOptions(connect.WithReadMaxBytes(maxRequest))
	for _, mount := range []func() (string, http.Handler){
		func() (string, http.Handler) { return metapbconnect.NewClusterServiceHandler(clusterAPI{n}, opts) },
		func() (string, http.Handler) { return metapbconnect.NewServerServiceHandler(serverAPI{n}, opts) },
		func() (string, http.Handler) { return metapbconnect.NewVolumeServiceHandler(volumeAPI{n}, opts) },
		func() (string, http.Handler) { return metapbconnect.NewStatusServiceHandler(statusAPI{n}, opts) },
	} {
		path, h := mount()
		mux.Handle(path, n.toLeader(h))
	}
	mux.HandleFunc("GET /healthz", n.healthz)
	mux.HandleFunc("GET /readyz", n.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.metrics.registry, promhttp.HandlerOpts{}))
	names := hostcheck.Names(n.cfg.Hosts).Of(n.cfg.APIListen, n.cfg.APIAdvertise).Of(n.cfg.Join...)
	return hostcheck.Handler(mux, names, "/metrics", "/healthz", "/readyz")
}

// local are the calls that the node asked answers itself.
var local = map[string]bool{
	metapbconnect.ClusterServiceGetNodeProcedure: true,
	metapbconnect.ClusterServiceAdoptProcedure:   true,
}

// toLeader lets h answer on the leader, and hands calls on elsewhere.
func (n *Node) toLeader(h http.Handler) http.Handler {
	failed := connect.NewErrorWriter()
	fail := func(w http.ResponseWriter, r *http.Request, err error) {
		if err := failed.Write(w, r, err); err != nil {
			n.log.Debug("answering", "err", err) // the caller is gone
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(authHeader) != "" {
			fail(w, r, refused(metapb.Reason_CODE_INVALID, "authentication is not known to this version: leave %s empty", authHeader))
			return
		}
		id := n.identity()
		if cluster, heard := metaclient.ParseGeneration(r.Header.Get(metaclient.GenerationHeader)); cluster == id.Cluster && heard > id.generation() && cluster != "" {
			n.superseded(heard)
			fail(w, r, refused(metapb.Reason_CODE_FOREIGN_CLUSTER, "this is generation %d of cluster %s, which is of generation %d by now", id.generation(), cluster, heard))
			return
		}
		w.Header().Set(metaclient.GenerationHeader, metaclient.FormatGeneration(id.Cluster, id.generation()))
		// A node that belongs to no cluster yet cannot decide in any case.
		if meant, is := r.Header.Get(metaclient.ClusterHeader), id.Cluster; meant != "" && is != "" && meant != is {
			fail(w, r, refused(metapb.Reason_CODE_FOREIGN_CLUSTER, "this is cluster %s, not %s", is, meant))
			return
		}
		p := n.peer()
		if local[r.URL.Path] || p != nil && p.leads() {
			h.ServeHTTP(w, r)
			return
		}
		var leader string
		if p != nil {
			leader = n.leaderURL(p)
		}
		target, err := url.Parse(leader)
		if leader == "" || err != nil || r.Header.Get(hopHeader) != "" {
			fail(w, r, apiError(errNoQuorum))
			return
		}
		n.metrics.forwarded.Inc()
		w.Header().Del(metaclient.GenerationHeader) // the leader names its own
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest+1024)
		proxy := &httputil.ReverseProxy{
			Rewrite: func(pr *httputil.ProxyRequest) {
				pr.SetURL(target)
				pr.Out.Header.Set(hopHeader, n.cfg.Name)
			},
			Transport: n.proxies,
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				var op *net.OpError
				if errors.As(err, &op) && op.Op == "dial" {
					fail(w, r, apiError(errNoQuorum)) // the leader is gone and its successor not known yet
					return
				}
				fail(w, r, apiError(errors.Join(errUnknownOutcome, err)))
			},
		}
		proxy.ServeHTTP(w, r)
	})
}

// healthz answers 200 while the process does its work, leader or not.
func (n *Node) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := n.Err(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n")) // the caller may be gone
}

// readyz answers 200 when calls would be answered: a leader is known.
func (n *Node) readyz(w http.ResponseWriter, _ *http.Request) {
	if !n.ready() {
		http.Error(w, "no leader", http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n")) // the caller may be gone
}
