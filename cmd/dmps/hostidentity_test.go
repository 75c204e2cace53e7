package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dmps/meta/metaclient"
	"dmps/server"
)

func TestStateFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	first, err := takeStateFolder(dir)
	if err != nil || first.key == "" {
		t.Fatalf("%+v, %v", first, err)
	}
	if _, err := takeStateFolder(dir); err == nil || !strings.Contains(err.Error(), "another memory server") {
		t.Errorf("taken twice: %v", err)
	}
	if err := first.release(); err != nil {
		t.Fatal(err)
	}
	again, err := takeStateFolder(dir)
	if err != nil || again.key != first.key {
		t.Errorf("the key %q became %q, %v", first.key, again.key, err)
	}
	if err := again.release(); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(other, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	copied, err := takeStateFolder(other)
	if err != nil || copied.key == first.key {
		t.Errorf("a copy of the folder has its key: %v", err)
	}
	if err := copied.release(); err != nil {
		t.Fatal(err)
	}
	if none, err := takeStateFolder(""); err != nil || none.key != "" || none.release() != nil {
		t.Errorf("without a folder: %+v, %v", none, err)
	}
}

// answers is a Registrar that answers as it is told.
type answers struct{ err error }

func (a *answers) Register(context.Context, server.Info) error { return a.err }
func (a *answers) Heartbeat(context.Context, server.Heartbeat) (server.HeartbeatReply, error) {
	return server.HeartbeatReply{}, nil
}

// Only a server that never had its id, and is told again and again that another one
// lives under it, gives up.
func TestTwinGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lives := fmt.Errorf("s lives at tcp://other: %w", metaclient.ErrIDInUse)
		a := &answers{}
		ends := func(l *loneID, err error) bool {
			a.err = err
			for range 20 {
				_ = l.Register(t.Context(), server.Info{}) // what it says is looked at below
				time.Sleep(time.Second)
			}
			select {
			case err := <-l.twin:
				return errors.Is(err, metaclient.ErrIDInUse)
			default:
				return false
			}
		}
		if !ends(newLoneID(a), lives) {
			t.Error("a twin goes on")
		}
		if ends(newLoneID(a), metaclient.ErrIDAwaited) || ends(newLoneID(a), metaclient.ErrUnreachable) {
			t.Error("who is to wait ends")
		}
		early := newLoneID(a)
		a.err = lives
		for range 3 { // as long as a life of its own that ended is still heard
			_ = early.Register(t.Context(), server.Info{})
			time.Sleep(time.Second)
		}
		if len(early.twin) > 0 {
			t.Error("the next life of a server gives up at once")
		}
		l := newLoneID(a)
		if ends(l, nil) || ends(l, lives) {
			t.Error("who had the id ends: it may hold the last copies")
		}
	})
}
