package ublk

import (
	"context"
	"fmt"
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
