package nbddev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const sysfs = "/sys"

// ErrElsewhere: the kernel has the volume's device under another number.
// Requests wait there: name that one, or none.
var ErrElsewhere = errors.New("the volume has an nbd device with another number")

// Held is a connected device, perhaps of a client that is gone.
type Held struct {
	Path       string
	Identifier string // of the volume; or what somebody else gave it

	index int
}

// List returns the connected devices that have an identifier. Whoever makes a
// device of any kind asks first; package hostdev asks for all kinds.
func List() ([]Held, error) { return list(sysfs) }

func list(root string) ([]Held, error) {
	dirs, err := filepath.Glob(filepath.Join(root, "block", "nbd*"))
	if err != nil {
		return nil, err // not with this pattern
	}
	var all []Held
	for _, dir := range dirs {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "nbd"))
		if err != nil {
			continue
		}
		id, err := backend(root, n)
		if err != nil {
			return nil, err
		}
		if id != "" {
			all = append(all, Held{pathOf(n), id, n})
		}
	}
	return all, nil
}

// held finds the device of a volume. With several nobody knows where what is out
// lies: ErrElsewhere.
func held(root, identifier string) (index int, found bool, err error) {
	all, err := list(root)
	if err != nil {
		return 0, false, err
	}
	for _, d := range all {
		switch {
		case d.Identifier != identifier:
		case found:
			return 0, false, fmt.Errorf("%w: %s and %s", ErrElsewhere, pathOf(index), d.Path)
		default:
			index, found = d.index, true
		}
	}
	return index, found, nil
}

// backend is the identifier of a device; none when it is not connected, or was
// connected without one.
func backend(root string, index int) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, "block", fmt.Sprintf("nbd%d", index), "backend"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("whose device %s is: %w", pathOf(index), err)
	}
	return strings.TrimSpace(string(b)), nil
}

func pathOf(index int) string { return "/dev/nbd" + strconv.Itoa(index) }
