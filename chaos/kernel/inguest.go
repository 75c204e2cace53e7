package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"dmps/chaos/kernel"
)

// inGuest refuses any machine but a guest of package kernel's: its kernel was
// started with a word that no other is, and nothing is there but what an
// initrd brought.
func inGuest() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("is this a guest? %w", err)
	}
	if !slices.Contains(strings.Fields(string(line)), kernel.GuestWord) {
		return errors.New("this program runs in a guest of chaos/kernel only: it would swap to devices that fail")
	}
	root, err := os.ReadFile("/proc/1/cmdline")
	if err != nil {
		return fmt.Errorf("is this a guest? %w", err)
	}
	if !bytes.HasPrefix(root, []byte(kernel.InitPath+"\x00")) {
		return fmt.Errorf("this program runs in a guest of chaos/kernel only: process 1 is %q", root)
	}
	return nil
}
