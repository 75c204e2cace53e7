package nbddev

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
// it waits for: blockdev.ServeCall. Both take SYSFS INDEX.
var Calls = map[string]blockdev.Call{"tune": callTune, "untuned": callUntuned}

func callTune(args []string) (answer string, release func() error, err error) {
	index, err := strconv.Atoi(args[1])
	if err != nil {
		return "", nil, fmt.Errorf("the queue of nbd device %s: %w", args[1], err)
	}
	return "", nil, tune(args[0], index)
}

// callUntuned answers with the settings that are not as they should be.
func callUntuned(args []string) (answer string, release func() error, err error) {
	index, err := strconv.Atoi(args[1])
	if err != nil {
		return "", nil, fmt.Errorf("the queue of nbd device %s: %w", args[1], err)
	}
	wrong, err := untuned(args[0], index)
	return strings.Join(wrong, ", "), nil, err
}

// untuned are the settings of a queue that are not as they should be.
func untuned(root string, index int) ([]string, error) {
	var wrong []string
	for _, s := range queueSettings {
		now, err := s.read(root, index)
		if err != nil {
			return nil, err
		}
		if now != s.value {
			wrong = append(wrong, s.name+" "+now)
		}
	}
	return wrong, nil
}

// read is the value of a setting now. Of a choice, the one in brackets.
func (s *setting) read(root string, index int) (string, error) {
	b, err := os.ReadFile(s.path(root, index))
	if err != nil {
		return "", fmt.Errorf("how %s is set: %w", s.name, err)
	}
	now := strings.TrimSpace(string(b))
	if _, after, ok := strings.Cut(now, "["); ok {
		now, _, _ = strings.Cut(after, "]")
	}
	return now, nil
}

func (s *setting) path(root string, index int) string {
	return filepath.Join(root, "block", fmt.Sprintf("nbd%d", index), "queue", s.name)
}

// tune sets the queue of a device that is not used yet, where it differs: each
// setting waits until no request is in flight. root is where sysfs is.
func tune(root string, index int) error {
	for _, s := range queueSettings {
		now, err := s.read(root, index)
		if err == nil && now != s.value {
			err = os.WriteFile(s.path(root, index), []byte(s.value), 0)
		}
		if err != nil {
			return fmt.Errorf("setting %s to %s, so that %s: %w", s.name, s.value, s.why, err)
		}
	}
	return nil
}
