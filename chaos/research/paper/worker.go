package paper

import (
	"bufio"
	"dmps/chaos/figures"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Work is the main function of the process that holds an array. It does one pass
// a line of in, until that ends, and answers each with a line of JSON: a process
// of its own can be put under a Limit, and who asks it can change settings of
// the kernel between passes.
//
//	fill | read | random PAGES SEED
func Work(bytes int64, in io.Reader, out io.Writer) error {
	a, err := NewArray(bytes)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	for sc := bufio.NewScanner(in); sc.Scan(); {
		m, err := a.pass(strings.Fields(sc.Text()))
		if err != nil {
			return errors.Join(err, a.Close())
		}
		if err := enc.Encode(m); err != nil {
			return errors.Join(err, a.Close())
		}
	}
	return a.Close()
}

func (a *Array) pass(f []string) (figures.Moved, error) {
	switch {
	case len(f) == 1 && f[0] == PassFill:
		return a.Fill(), nil
	case len(f) == 1 && f[0] == PassRead:
		return a.Read()
	case len(f) == 3 && f[0] == PassRandom:
		pages, err := strconv.Atoi(f[1])
		if err != nil {
			return figures.Moved{}, fmt.Errorf("pages: %w", err)
		}
		seed, err := strconv.ParseUint(f[2], 10, 64)
		if err != nil {
			return figures.Moved{}, fmt.Errorf("seed: %w", err)
		}
		return a.Random(pages, seed)
	}
	return figures.Moved{}, fmt.Errorf("a pass %q is not understood", f)
}

// Worker is a process in Work, seen from its parent.
type Worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// StartWorker starts argv, whose process calls Work, in the group of l, which
// may be nil.
func StartWorker(l *Limit, argv ...string) (*Worker, error) {
	w := &Worker{cmd: exec.Command(argv[0], argv[1:]...)}
	w.cmd.Stderr = os.Stderr
	if l != nil {
		w.cmd.SysProcAttr = l.Into(nil)
	}
	in, err := w.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	w.in, w.out = in, bufio.NewReader(out)
	return w, nil
}

// Do has the worker make one pass.
func (w *Worker) Do(pass ...any) (figures.Moved, error) {
	fail := func(err error) (figures.Moved, error) {
		return figures.Moved{}, fmt.Errorf("pass %v of a worker: %w", pass, err)
	}
	if _, err := fmt.Fprintln(w.in, pass...); err != nil {
		return fail(err)
	}
	line, err := w.out.ReadBytes('\n')
	if err != nil {
		return fail(fmt.Errorf("it gave no answer: %w", err))
	}
	var m figures.Moved
	if err := json.Unmarshal(line, &m); err != nil {
		return fail(err)
	}
	return m, nil
}

// Close ends the worker. An error is also what it had said before.
func (w *Worker) Close() error {
	err := w.in.Close()
	if err2 := w.cmd.Wait(); err2 != nil {
		err = errors.Join(err, fmt.Errorf("worker: %w", err2))
	}
	return err
}
