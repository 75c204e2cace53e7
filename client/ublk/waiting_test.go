package ublk

import (
	"errors"
	"strings"
	"testing"
)

// A process that the driver would know by another number is told what it needs.
func TestHostPIDs(t *testing.T) {
	if err := inHostPIDs(hostPIDs); err != nil {
		t.Error(err)
	}
	if err := inHostPIDs("pid:[4026532201]"); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "--pid=host") {
		t.Errorf("in a container: %v", err)
	}
}
