package paper

import (
	"bytes"
	"context"
	"dmps/chaos/figures"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// AppRow is a real program that needs more memory than it may have.
type AppRow struct {
	App    string `json:"app"`
	Device string `json:"device"` // swap device, or Memory
	Limit  int64  `json:"limit"`  // bytes of memory that it may have, 0 without limit
	Peak   int64  `json:"peak"`   // most bytes that it had in memory at once
	Out    int64  `json:"out"`    // most bytes that it had on the swap device at once
	figures.Moved
	VM   VM   `json:"vm"`
	Swap Disk `json:"swap"`
}

// App is a program with its input and the judge of its output. The input is made
// and the output judged outside of the program's limit, and both are streamed:
// no file and no page cache takes part.
type App struct {
	Name  string
	Argv  []string                  // Argv[0] is a path, or found in PATH
	Input func(w io.Writer) error   // writes the standard input
	Judge func(out io.Reader) error // reads the standard output to its end; an error when it is not right
}

// Run runs the program under l, which may be nil, and returns how long it took
// from start to exit, input and output included. Bytes stay 0.
func (a App) Run(ctx context.Context, l *Limit) (figures.Moved, error) {
	fail := func(err error) (figures.Moved, error) { return figures.Moved{}, fmt.Errorf("%s: %w", a.Name, err) }
	cmd := exec.CommandContext(ctx, a.Argv[0], a.Argv[1:]...)
	cmd.Env = []string{"LC_ALL=C", "HOME=/", "TMPDIR=/nonexistent"} // who spills to files instead of swapping fails
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if l != nil {
		cmd.SysProcAttr = l.Into(nil)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return fail(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fail(err)
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	fed := make(chan error, 1)
	go func() { fed <- errors.Join(a.Input(in), in.Close()) }()
	judged := a.Judge(out)
	if judged != nil {
		// What it still writes is not read any more: it ends by a broken pipe.
		judged = fmt.Errorf("its output is wrong: %w", errors.Join(judged, out.Close()))
	}
	errIn, errEnd := <-fed, cmd.Wait()
	took := time.Since(start)
	if err := errors.Join(judged, errIn, errEnd, ctx.Err()); err != nil {
		return fail(fmt.Errorf("%w; it said: %s", err, bytes.TrimSpace(stderr.Bytes())))
	}
	return figures.Moved{Seconds: took.Seconds()}, nil
}
