package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dmps/internal/bytesize"
	"dmps/internal/reach"
	"dmps/meta/metaclient"
	"dmps/meta/state"
	"dmps/raid"
	"dmps/server"
	"dmps/transport/media"
)

type serverFlags struct {
	role      roleFlags
	id        string
	listen    []string
	advertise []string
	memory    bytesize.Size
	labels    map[string]string
	metrics   string
	stateDir  string
	heap      bytesize.Size
	swappable bool
	protect   bool
	rebuild   bytesize.Size
	care      bool
	careMem   bytesize.Size
	low       string
	pressure  float64
	pprof     bool
	drain     time.Duration
}

func (a *app) serverCommand() *cobra.Command {
	var f serverFlags
	cmd := &cobra.Command{
		Use:     "server",
		Short:   "Run a memory server",
		GroupID: groupRoles,
		Long: `Lends memory of this machine. All of it is mapped and locked at the start; what
it holds is gone when the process ends, and the volumes that used it are
degraded from then on. With --drain-on-stop a server that is told to end moves
what it holds to others first; what it cannot move in that time is lost, and it
exits with 1.

Labels say where the server is, so that members of a group do not share what can
fail at once: host (by default this host's name), rack, zone.

With several --listen, one for each network interface, clients spread their
requests over all of them, and go on over the others while one is down.

A volume that nobody has attached is rebuilt too: one of the servers takes a care
lease on it, which any attach ends at once. --care-memory bounds what that may
take beside the heap: 80 MiB a volume and 16 bytes for each of its pages.`,
		Example: `  dmps server --memory 8GiB --meta 127.0.0.1:7200
  dmps server --id s1 --memory 64GiB --listen 10.0.0.11:7301 --insecure-network --label rack=r1
  dmps server --memory 64GiB --listen 10.0.0.11:7301 --listen 10.1.0.11:7301 --insecure-network
  dmps server list
  dmps server drain s3 --wait`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.runServer(cmd.Context(), f)
		},
	}
	f.role.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.id, "id", "", "`name` of the server, the same after every restart (default: the host's name)")
	fl.StringSliceVar(&f.listen, "listen", []string{"127.0.0.1:7301"}, "`address` for clients: host:port, or fabric+PROVIDER[+PROVIDER...]://host:port for one-sided transfers too, by the first that a client has; once for each network interface, the best first")
	fl.StringSliceVar(&f.advertise, "advertise", nil, "`address` under which clients reach it, host:port; once for each interface, clients use all (default: --listen)")
	fl.Var(&f.memory, "memory", "how much memory to lend (required)")
	fl.StringToStringVar(&f.labels, "label", nil, "where the server is: `KEY=VALUE`, for host, rack or zone; may be repeated")
	fl.StringVar(&f.metrics, "metrics", "", "`address` of metrics and health over HTTP (default: none)")
	f.heap = 128 * bytesize.MiB
	fl.Var(&f.heap, "heap-limit", "what the Go heap may take, besides the memory that is lent")
	fl.Var(&f.rebuild, "rebuild-rate", "bytes a second that this server pulls at most from others for rebuilds, and reads for scrubs; 0: no limit")
	fl.BoolVar(&f.care, "care", true, "rebuild volumes that nobody has attached")
	f.careMem = 256 * bytesize.MiB
	fl.Var(&f.careMem, "care-memory", "what that may take; larger volumes are left to other servers, or until they are attached")
	fl.StringVar(&f.low, "low-memory", "5%", "ask for chunks to be moved away when the host has less `memory` available, in percent or bytes; 0: never")
	fl.Float64Var(&f.pressure, "pressure", 20, "ask for the same when some tasks wait for memory for that many `percent` of the time (/proc/pressure/memory); 0: never")
	fl.BoolVar(&f.swappable, "allow-swappable", false, "go on when memory cannot be locked; what is lent may then be on a disk")
	fl.StringVar(&f.stateDir, "state-dir", "", "`folder` of this server, made when missing: started again with it on the same machine it gets its --id back at once, also at another address")
	fl.BoolVar(&f.protect, "protect", false, "this host swaps to a volume itself: keep the server from waiting for that, as attach --device does for the client")
	fl.DurationVar(&f.drain, "drain-on-stop", 0, "when it is told to end, have everything moved to other servers first, for up to this `time`; a second signal ends it at once; 0: end at once")
	fl.BoolVar(&f.pprof, "pprof", false, "serve profiles under /debug/pprof/ of the metrics address")
	if err := cmd.MarkFlagRequired("memory"); err != nil {
		panic(err) // the flag is defined above
	}
	noCompletion(cmd, "id", "listen", "advertise", "memory", "label", "metrics", "heap-limit", "low-memory", "pressure", "drain-on-stop")
	cmd.AddCommand(a.serverListCommand(), a.serverDrainCommand(), a.serverUndrainCommand(), a.serverRemoveCommand(), a.serverPurgeCommand())
	return cmd
}

// serverGrace bounds how long a server waits for sessions when it is told to
// end: there is nothing to save.
const serverGrace = 2 * time.Second

func (a *app) runServer(ctx context.Context, f serverFlags) (err error) {
	outlivePipes()
	if err := f.complete(); err != nil {
		return err
	}
	short, err := f.shortage()
	if err != nil {
		return err
	}
	log := a.logger()
	if err := f.protectServer(); err != nil {
		return err
	}
	registrar, lone, folder, err := a.serverMeta(f.stateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.release()) }()
	defer registrar.Close()
	pid, err := takePIDFile(f.role.pidFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pid.release()) }()
	heap := f.heap
	if f.care {
		heap += f.careMem
	}
	if err := settleHeap(ctx, heap, f.protect, serverReserve, log); err != nil {
		return err
	}
	medium, err := serveByAll(f.listen, log)
	if err != nil {
		return err
	}
	adm := newAdmin(f.pprof, log, f.role.hosts...)
	keeper := f.keeper(registrar, log)
	srv, err := server.New(server.Config{
		ID: raid.ServerID(f.id), Memory: int64(f.memory), AllowSwappable: f.swappable,
		Listen: medium.listen, Scheme: medium.scheme, Front: medium.front, Peers: &media.Dialer{Log: log}, InsecureNetwork: f.role.insecure, Advertise: strings.Join(f.advertise, ","),
		Labels: f.labels, RebuildRate: int64(f.rebuild), Shortage: short, Registrar: lone, Metrics: adm.reg, Log: log,
		Care: keeper.offer,
	})
	if err != nil {
		return err
	}
	defer func() {
		keeper.close() // its volumes may have members here
		bye, cancel := context.WithTimeout(context.Background(), serverGrace)
		defer cancel()
		err = errors.Join(err, srv.Close(bye))
	}()
	// The arena has locked itself. The rest of the process is locked only with
	// --protect: a machine that lends its memory is not short of it.
	if f.metrics != "" {
		l, err := listen(ctx, "metrics", f.metrics)
		if err != nil {
			return err
		}
		adm.health(func() error {
			if srv.Cluster() == "" {
				return errors.New("the metadata service has not answered yet")
			}
			return nil
		})
		defer adm.serve(l, log)()
		log.Info("metrics", "url", "http://"+l.Addr().String()+"/metrics")
	}
	ready(log)
	select {
	case <-ctx.Done():
	case err := <-lone.twin:
		return err
	}
	leaving(log)
	l := leaver{meta: registrar, srv: srv, id: raid.ServerID(f.id), patience: f.drain, log: log}
	return l.leave()
}

// protectServer keeps the server from waiting for swap space that it lends itself.
func (f *serverFlags) protectServer() error {
	if !f.protect {
		return nil
	}
	if err := protectRole("dmps-server-"+f.id, realtimePriority); err != nil {
		return err
	}
	// A cgroup without swap is not enough: what the process had before it
	// went there is still charged to the one that it came from.
	return mustLockMemory()
}

// serverMeta is the metadata service for a memory server with this state folder: as a
// client, and as the registrar that notices another server of its id.
func (a *app) serverMeta(stateDir string) (*metaclient.Client, *loneID, *stateFolder, error) {
	folder, err := takeStateFolder(stateDir)
	if err != nil {
		return nil, nil, nil, err
	}
	host := hostIdentity()
	host.Folder = folder.key
	m, err := a.metaAs(host)
	if err != nil {
		return nil, nil, nil, errors.Join(err, folder.release())
	}
	return m, newLoneID(m), folder, nil
}

// shortage is when the host counts as short of memory.
func (f *serverFlags) shortage() (server.Shortage, error) {
	s := server.Shortage{Pressure: f.pressure}
	if f.pressure < 0 || f.pressure > 100 {
		return s, usageError("--pressure: a percentage from 0 to 100")
	}
	if text, ok := strings.CutSuffix(f.low, "%"); ok {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || n < 0 || n > 90 {
			return s, usageError("--low-memory: a percentage from 0 to 90, or an amount like 2GiB")
		}
		s.LowPercent = n
		return s, nil
	}
	var low bytesize.Size
	if err := low.Set(f.low); err != nil {
		return s, usageError("--low-memory: %w", err)
	}
	s.Low = uint64(low)
	return s, nil
}

// complete checks the flags and fills in what follows from the host.
func (f *serverFlags) complete() error {
	medium, err := serveByAll(f.listen, nil)
	if err != nil {
		return err
	}
	for _, addr := range strings.Split(medium.listen, ",") {
		if err := f.role.checkAddr("listen", addr); err != nil {
			return err
		}
	}
	if err := reach.Told(strings.Split(medium.listen, ","), f.advertise, "--advertise"); err != nil {
		return usageError("--listen: %w", err)
	}
	if f.metrics != "" {
		if err := f.role.checkAddr("metrics", f.metrics); err != nil {
			return err
		}
	}
	if f.drain < 0 {
		return usageError("--drain-on-stop: a time such as 15m, or 0")
	}
	if f.memory <= 0 {
		return usageError("say how much memory to lend: --memory 8GiB")
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("finding the host's name: %w", err)
	}
	if f.id == "" {
		f.id = host
	}
	if !state.ValidServer(f.id) {
		return usageError("--id %q: use 1 to 128 of a-z A-Z 0-9 . _ : - and begin with a letter or digit", f.id)
	}
	labels := map[string]string{"host": host}
	maps.Copy(labels, f.labels)
	f.labels = labels
	return nil
}
