package ublk

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"dmps/client/devicetest"
)

// silentStart, in childEnv, is a client that makes a device of a volume that does
// not answer.
const silentStart = "silent start"

func silentChild() error {
	Procs(2)
	m := devicetest.Start(devicetest.NewDisk(1024*pageSize), 512, false)
	m.Pause(true)
	s, err := Start(context.Background(), Config{Device: m, Identity: "guest/k", ID: AnyID, Queues: 2, Depth: 16})
	if err != nil {
		return err
	}
	fmt.Printf("ready %s %v\n", s.Path(), s.Recovered())
	<-s.Failed()
	return s.Err()
}

// A client whose volume does not answer has its device all the same. Killed, it ends
// at once, and the next client goes on with the device.
func TestGuestKilledWhileItsVolumeIsSilent(t *testing.T) {
	inGuest(t)
	file := t.TempDir() + "/volume"
	if err := os.WriteFile(file, make([]byte, 1024*pageSize), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{childEnv + "=" + silentStart}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, err := out.Read(line)
	if err != nil || !strings.HasPrefix(string(line[:n]), "ready") {
		t.Fatalf("%q, %v", line[:n], err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it was killed
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("the client that was killed has not ended")
	}
	next, _, recovered := startClient(t, file, 2)
	if !recovered {
		t.Error("the next client does not go on with the device")
	}
	if err := next.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = next.Wait() // it was killed
	s := real(t, Config{Device: devicetest.New(t, devicetest.NewDisk(1024*pageSize), 512, false), Identity: "guest/k", ID: AnyID})
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// orphanStart, in childEnv, is a client that ends, by a kill, when it has added a device
// for the identity behind it, or before.
const orphanStart = "orphan of "

func orphanChild(identity string) error {
	d, err := openDriver()
	if err != nil {
		return err
	}
	got, err := d.add(devInfo{queues: 2, depth: 16, maxIO: 128 << 10, id: anyID, pid: int32(os.Getpid()), flags: wanted, tag: Tag(identity)})
	if err != nil {
		return err
	}
	fmt.Printf("added %d\n", got.id)
	select {}
}

// orphan runs such a client, and kills it after so long, or when it has added its
// device with 0.
func orphan(t *testing.T, identity string, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{childEnv + "=" + orphanStart + identity}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		time.Sleep(after)
	} else if _, err := out.Read(make([]byte, 100)); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
}

// A device that a client left when it was killed within ADD_DEV, or before the device
// was live, is no obstacle to the next client of its volume, and is not touched by
// another volume's.
func TestGuestOrphan(t *testing.T) {
	inGuest(t)
	began := time.Now()
	orphan(t, "guest/other", 0)
	took := time.Since(began)
	left := 0
	for range 20 {
		orphan(t, "guest/k", time.Duration(rand.Int64N(int64(took))))
		if len(ids(t)) == 2 {
			left++
		}
		s := real(t, Config{Device: devicetest.New(t, devicetest.NewDisk(1024*pageSize), 512, false), Identity: "guest/k", ID: AnyID})
		if all := ids(t); len(all) != 2 || s.Recovered() {
			t.Errorf("devices %v, recovered %v", all, s.Recovered())
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if all := ids(t); len(all) != 1 {
			t.Errorf("the other volume's device: %v", all)
		}
	}
	t.Logf("%d of 20 clients left a device", left)
	s := real(t, Config{Device: devicetest.New(t, devicetest.NewDisk(1024*pageSize), 512, false), Identity: "guest/other", ID: AnyID})
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if all := ids(t); len(all) != 0 {
		t.Errorf("left: %v", all)
	}
}

// ids are the driver's devices.
func ids(t *testing.T) []int {
	t.Helper()
	d, err := openDriver()
	if err != nil {
		t.Fatal(err)
	}
	all, err := d.devices()
	if err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	return all
}
