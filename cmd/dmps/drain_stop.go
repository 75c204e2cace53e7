package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"dmps/internal/exitcode"
	"dmps/internal/jitter"
	"dmps/meta/metaclient"
	"dmps/raid"
	"dmps/server"
)

// leaver drains a memory server that was told to end, before it ends.
type leaver struct {
	meta     *metaclient.Client
	srv      *server.Server
	id       raid.ServerID
	patience time.Duration
	log      *slog.Logger
	said     string // the last troubles
}

const (
	// sayProgress is how often the log tells how far a server is drained.
	sayProgress = 10 * time.Second
	// leaveGrace bounds how long a drained server waits until it is given no chunks
	// any more.
	leaveGrace = 15 * time.Second
)

// leave is the end of the server, with or without patience.
func (l *leaver) leave() error {
	if l.patience > 0 {
		return l.drain()
	}
	l.log.Info("ending: what this server holds is gone", "chunks", l.srv.Stats().Chunks)
	return nil
}

// drain has everything moved off the server. It gives up when the patience is over,
// a second signal comes, or somebody undrains the server: then it says what is lost.
func (l *leaver) drain() error {
	if l.srv.Cluster() == "" {
		l.log.Info("ending: the metadata service never answered, so nobody was lent anything")
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	l.log.Info("this server is drained before it ends; a second signal ends it at once", "patience", l.patience, "chunks", l.srv.Stats().Chunks)
	was, err := l.order(ctx)
	if errors.Is(err, errAnother) {
		l.log.Warn("ending at once", "why", err)
		return nil
	}
	if err == nil {
		err = l.follow(ctx)
	}
	if err != nil {
		return l.giveUp(ctx, err)
	}
	l.log.Info("drained: this server holds nothing")
	if was { // by somebody who wants it so
		return nil
	}
	return l.undrain()
}

// errAnother is that the id went to another server, and all that this one holds counts
// as lost since. To drain would be to drain that one.
var errAnother = errors.New("the metadata knows another server by this one's id: nobody relies on what this one holds")

// order has the draining begun, and tells whether it was before. Errors: errAnother.
func (l *leaver) order(ctx context.Context) (was bool, err error) {
	for {
		d, err := drainingOf(ctx, l.meta, l.id)
		if err == nil && d.incarnation != l.srv.Incarnation() {
			return false, errAnother
		}
		if err == nil {
			if err = l.meta.DrainServer(ctx, l.id); err == nil {
				return d.Draining, nil
			}
		}
		if err := l.again(ctx, err); err != nil {
			return false, err
		}
	}
}

// follow returns when the server holds nothing.
func (l *leaver) follow(ctx context.Context) error {
	var last time.Time
	for {
		d, err := drainingOf(ctx, l.meta, l.id)
		switch {
		case err == nil && !d.Draining:
			return errors.New("somebody has ended the draining")
		case err == nil && d.unknownLeft() != nil:
			return d.unknownLeft()
		case err == nil && d.Drained:
			return nil
		case err == nil:
			if time.Since(last) >= sayProgress {
				last = time.Now()
				l.log.Info("being drained", "chunks", d.Chunks, "moving", d.Moving, "rows", d.RowsLeft)
			}
			l.trouble(strings.Join(d.moves().troubles(), "; "))
			l.status(fmt.Sprintf("STATUS=being drained: %s left", count(d.Chunks, "chunk")))
			err = pause(ctx, followEvery)
		default:
			err = l.again(ctx, err)
		}
		if err != nil {
			return err
		}
	}
}

// again waits after an error of the metadata service, unless that is for good.
func (l *leaver) again(ctx context.Context, err error) error {
	if errors.Is(err, metaclient.ErrNotFound) {
		return err
	}
	if ctx.Err() == nil {
		l.trouble("the metadata service does not decide: waiting for it: " + err.Error())
		l.status("STATUS=waits for the metadata service, to be drained")
	}
	return pause(ctx, jitter.Around(followEvery))
}

// trouble says what holds it up, once until another thing does.
func (l *leaver) trouble(text string) {
	if text != "" && text != l.said {
		l.log.Warn("the draining does not go on", "why", text)
	}
	l.said = text
}

// status keeps the service manager from killing what makes progress: its limit counts
// anew from here.
func (l *leaver) status(text string) {
	// Without a service manager it does nothing; one that is gone does not matter now.
	_, _ = daemon.SdNotify(false, fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d", text, (30*time.Second).Microseconds()))
}

// undrain lets the next life of the server be used. Before, it sees to it that this
// one is given nothing any more: the server says that it accepts nobody.
func (l *leaver) undrain() error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveGrace)
	defer cancel()
	l.srv.Retire()
	for {
		d, err := drainingOf(ctx, l.meta, l.id)
		if err == nil && (d.State == metaclient.ServerSuspect || d.State == metaclient.ServerDown) {
			if err = l.meta.UndrainServer(ctx, l.id); err == nil {
				return nil
			}
		}
		if err == nil {
			err = pause(ctx, followEvery/4)
		} else {
			err = l.again(ctx, err)
		}
		if err != nil {
			l.log.Warn("nothing is lost, but the server stays marked as drained: when it was started again, say: dmps server undrain "+string(l.id), "err", err)
			return nil
		}
	}
}

// giveUp says what the end of this server loses.
func (l *leaver) giveUp(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the patience of %v is over", l.patience)
	} else if ctx.Err() != nil {
		err = errors.New("a second signal came")
	}
	n := l.srv.Stats().Chunks
	if n == 0 {
		l.log.Warn("not drained, but this server holds nothing", "err", err)
		return nil
	}
	return &exitError{exitcode.Failure, fmt.Errorf("server %s ends with %s, which are lost: %w; moves that began go on, and it stays marked as drained until 'dmps server undrain %s'", l.id, count(uint64(n), "chunk"), err, l.id)}
}
