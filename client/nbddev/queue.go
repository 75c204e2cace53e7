package nbddev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"dmps/internal/blockdev"
)

// Settings of the device's queue. A message to the client that a signal
// interrupts when it is half sent is answered by kernels 6.1 to 6.12 (and
// others) with "Unexpected reply" and I/O errors. A message that fits into the
// socket's send buffer is never half sent: so what can be in flight is bounded,
// and the send buffer is larger than that.
const (
	queueDepth   = 16
	maxSectorsKB = 128 // a transfer of dmps, too
	sendBuffer   = 8 << 20
)

// setting is a file under /sys/block/nbdN/queue.
type setting struct{ name, value, why string }

var queueSettings = []setting{
	{"scheduler", "none", "the order is the client's business, and a scheduler holds requests of its own"},
	{"max_sectors_kb", strconv.Itoa(maxSectorsKB), "a request fits into the socket's send buffer"},
	{"nr_requests", strconv.Itoa(queueDepth), "all requests together fit into the socket's send buffer"},
	{"rotational", "0", "swap is spread over clusters, and there is nothing to seek"},
	{"add_random", "0", "completions are no source of randomness"},
	{"read_ahead_kb", "128", "what one message carries"},
}

// Calls are what another process does for this one, which serves the device that
// it waits for: blockdev.ServeCall.
var Calls = map[string]blockdev.Call{
	"tune": func(args []string) (string, func() error, error) {
		index, err := strconv.Atoi(args[1])
		if err != nil {
			return "", nil, fmt.Errorf("the queue of nbd device %s: %w", args[1], err)
		}
		return "", nil, tune(args[0], index)
	},
}

// setUp sets the queue of a device that is not used yet.
func setUp(ctx context.Context, index int) error {
	_, release, err := blockdev.Apart(ctx, "tune", sysfs, strconv.Itoa(index))
	if err != nil {
		return err
	}
	return errors.Join(release(), blockdev.Unthrottle(ctx, sysfs, fmt.Sprintf("nbd%d", index)))
}

// tune is what setUp does of this package's. root is where sysfs is.
func tune(root string, index int) error {
	dir := filepath.Join(root, "block", fmt.Sprintf("nbd%d", index), "queue")
	for _, s := range queueSettings {
		if err := os.WriteFile(filepath.Join(dir, s.name), []byte(s.value), 0); err != nil {
			return fmt.Errorf("setting %s to %s, so that %s: %w", s.name, s.value, s.why, err)
		}
	}
	return nil
}
