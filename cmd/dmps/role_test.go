package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPIDFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pid")
	if err := os.WriteFile(path, []byte("999999999\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := takePIDFile(path) // a stale file is no obstacle
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || atoi(t, strings.TrimSpace(string(b))) != os.Getpid() {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if _, err := takePIDFile(path); err == nil || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("taken twice: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || len(b) == 0 {
		t.Errorf("the second one harmed the file: %q, %v", b, err)
	}
	if err := p.release(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after release: %v", err)
	}
	if p, err := takePIDFile(""); err != nil || p.release() != nil {
		t.Errorf("without a path: %v", err)
	}
}

func TestCheckAddr(t *testing.T) {
	for addr, ok := range map[string]bool{
		"127.0.0.1:1": true, "127.8.8.8:1": true, "[::1]:1": true, "localhost:1": true,
		":1": false, "0.0.0.0:1": false, "[::]:1": false, "192.0.2.1:1": false, "example.org:1": false, "1": false, "": false,
	} {
		if err := new(roleFlags).checkAddr("listen", addr); (err == nil) != ok {
			t.Errorf("%q: %v", addr, err)
		}
		insecure := &roleFlags{insecure: true}
		if err := insecure.checkAddr("listen", addr); (err == nil) != strings.Contains(addr, ":") {
			t.Errorf("%q with --insecure-network: %v", addr, err)
		}
	}
}

// What the metadata would refuse for good is refused at the command line.
func TestServerNames(t *testing.T) {
	for id, ok := range map[string]bool{"s1": true, "": true, "s 7": false, "-s": false, "a/b": false} {
		f := serverFlags{id: id, memory: 1 << 20, listen: []string{"127.0.0.1:7301"}}
		if err := f.complete(); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}
