package figures

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Machine is where measurements come from.
type Machine struct {
	CPU       string `json:"cpu"`
	Cores     int    `json:"cores"`
	MemoryMiB int64  `json:"memory_mib"`
	Kernel    string `json:"kernel"`
	Emulated  string `json:"emulated,omitempty"` // how the machine itself is made, "" where it is real
	Go        string `json:"go"`
	Commit    string `json:"commit,omitempty"` // of this project
}

// Data is what was measured for one figure, in one run. R is its row.
type Data[R any] struct {
	Figure  string    `json:"figure"`
	Started time.Time `json:"started"` // UTC
	Took    float64   `json:"took_seconds"`
	Quick   bool      `json:"quick,omitempty"` // sizes were cut down: for trying, not for showing
	Machine Machine   `json:"machine"`
	Host    Machine   `json:"host"`            // that emulates it
	Load    [2]string `json:"load"`            // of the host, at start and end: its averages of 1, 5 and 15 minutes
	Notes   []string  `json:"notes,omitempty"` // how devices and limits were set, and what could not be measured
	Rows    []R       `json:"rows"`
}

// Save replaces the file NAME.json in dir, as a whole. A figure without rows is
// an error: it would hide that nothing was measured.
func (d Data[R]) Save(dir string) error {
	if d.Figure == "" || len(d.Rows) == 0 {
		return fmt.Errorf("figures: figure %q has no rows to save", d.Figure)
	}
	b, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return fmt.Errorf("figures: figure %s: %w", d.Figure, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	path := filepath.Join(dir, d.Figure+".json")
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	return os.Rename(path+".new", path)
}

// ErrNotMeasured: there is no data of that figure; measure it, or leave it out.
var ErrNotMeasured = errors.New("not measured")

// Load reads what Save has written.
func Load[R any](dir, figure string) (Data[R], error) {
	var d Data[R]
	b, err := os.ReadFile(filepath.Join(dir, figure+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("figures: figure %s: %w", figure, ErrNotMeasured)
	}
	if err != nil {
		return d, fmt.Errorf("figures: %w", err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("figures: figure %s: %w", figure, err)
	}
	if d.Figure != figure {
		return d, fmt.Errorf("figures: %s.json holds figure %q", figure, d.Figure)
	}
	return d, nil
}

// Operations.
const (
	Read  = "read"
	Write = "write"
)
