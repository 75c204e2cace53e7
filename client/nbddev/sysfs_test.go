package nbddev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// device makes /sys/block/nbdN below root; without an identifier the kernel
// has no file for it.
func device(t *testing.T, root, name, identifier string) string {
	t.Helper()
	queue := filepath.Join(root, "block", name, "queue")
	if err := os.MkdirAll(queue, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, s := range queueSettings {
		if err := os.WriteFile(filepath.Join(queue, s.name), []byte("before\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if identifier != "" {
		if err := os.WriteFile(filepath.Join(root, "block", name, "backend"), []byte(identifier+"\n"), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	return queue
}

func TestTune(t *testing.T) {
	root := t.TempDir()
	queue := device(t, root, "nbd2", "")
	if err := tune(root, 2); err != nil {
		t.Fatal(err)
	}
	for _, s := range queueSettings {
		if b, err := os.ReadFile(filepath.Join(queue, s.name)); string(b) != s.value || err != nil {
			t.Errorf("%s is %q, not %q: %v", s.name, b, s.value, err)
		}
	}
	// What cannot be set is an error, which names it.
	if err := os.Remove(filepath.Join(queue, "nr_requests")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(queue, "nr_requests"), 0o755); err != nil { // cannot be written, not even by root
		t.Fatal(err)
	}
	if err := tune(root, 2); err == nil || !strings.Contains(err.Error(), "nr_requests") {
		t.Errorf("a queue that cannot be set: %v", err)
	}
}

// All requests that can be in flight fit into the socket's send buffer: half of
// it, since the kernel counts its own structures against it.
func TestSendBufferHoldsTheQueue(t *testing.T) {
	const header = 28
	if most := queueDepth * (maxSectorsKB<<10 + header); most > sendBuffer/2 {
		t.Errorf("%d bytes can be in flight, the send buffer has %d", most, sendBuffer)
	}
}

func TestHeld(t *testing.T) {
	root := t.TempDir()
	device(t, root, "nbd0", "")
	device(t, root, "nbd1", "dmps/c/swap0/12")
	device(t, root, "nbd11", "dmps/c/swap0/1")
	for identifier, want := range map[string]int{"dmps/c/swap0/1": 11, "dmps/c/swap0/12": 1, "dmps/c/swap0": -1, "dmps/d/swap0/1": -1} {
		n, ok, err := held(root, identifier)
		if ok != (want >= 0) || ok && n != want || err != nil {
			t.Errorf("%s: device %d, %v, %v; want %d", identifier, n, ok, err, want)
		}
	}
	all, err := list(root)
	if err != nil || len(all) != 2 || all[0].Path != "/dev/nbd1" || all[1].Identifier != "dmps/c/swap0/1" {
		t.Errorf("%+v, %v", all, err)
	}
	// Of two nobody knows which holds what is out.
	device(t, root, "nbd12", "dmps/c/swap0/1")
	if _, _, err := held(root, "dmps/c/swap0/1"); !errors.Is(err, ErrElsewhere) {
		t.Errorf("two devices: %v", err)
	}
	// What cannot be read may be the volume's.
	if err := os.MkdirAll(filepath.Join(root, "block", "nbd13", "backend"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := held(root, "dmps/d"); err == nil {
		t.Error("a device that cannot be asked was taken for nobody's")
	}
}
