package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

type verdict string

const (
	killed     verdict = "killed"     // a test failed, as it should
	equivalent verdict = "equivalent" // no test failed, and none can
	survived   verdict = "SURVIVED"   // no test failed
	noticed    verdict = "NOTICED"    // a test failed although the patch says that none can
	hung       verdict = "HUNG"       // the tests did not end, and the patch does not expect that
	broken     verdict = "BROKEN"     // the patch does not apply or build, or the tests fail without it
)

func (v verdict) bad() bool { return v != killed && v != equivalent }

type outcome struct {
	verdict verdict
	by      string // the first test that failed
	output  string
	took    time.Duration
}

// bench tries mutants. The tree stays as it is: go test takes the changed files
// from elsewhere (-overlay).
type bench struct {
	ctx   context.Context
	root  string
	limit time.Duration
	trust bool // the tests pass without a fault: do not try

	mu    sync.Mutex
	sound map[string]func() error // of runs without a fault, by their arguments
}

func (b *bench) try(m *mutant) outcome {
	begin := time.Now()
	o, err := b.judge(m)
	if err != nil {
		o = outcome{verdict: broken, output: err.Error()}
	}
	o.took = time.Since(begin)
	return o
}

func (b *bench) judge(m *mutant) (outcome, error) {
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return outcome{}, fmt.Errorf("making a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	overlay, err := m.overlay(b.root, dir)
	if err != nil {
		return outcome{}, err
	}
	for _, args := range m.kills {
		// A test that fails anyway notices nothing.
		if !b.trust {
			if err := b.passes(args); err != nil {
				return outcome{}, err
			}
		}
		out, err := b.test(append([]string{"-overlay", overlay}, args...))
		switch {
		case strings.Contains(out, "[no tests to run]"):
			return outcome{}, fmt.Errorf("go test %s: there is no such test", strings.Join(args, " "))
		case err == nil:
			continue
		case b.ctx.Err() != nil:
			return outcome{}, b.ctx.Err()
		case unbuilt(out):
			return outcome{}, fmt.Errorf("it does not build:\n%s", out)
		}
		o := outcome{verdict: killed, by: failedTest(out), output: out}
		switch {
		case m.why != "":
			o.verdict = noticed
		case strings.Contains(out, "panic: test timed out") && !m.hangs:
			o.verdict = hung
		}
		return o, nil
	}
	if m.why != "" {
		return outcome{verdict: equivalent}, nil
	}
	return outcome{verdict: survived}, nil
}

// passes reports whether a run of tests passes without a fault. It is made once.
func (b *bench) passes(args []string) error {
	key := strings.Join(args, " ")
	b.mu.Lock()
	once := b.sound[key]
	if once == nil {
		once = sync.OnceValue(func() error {
			if out, err := b.test(args); err != nil {
				return fmt.Errorf("go test %s fails without a fault:\n%s", key, out)
			}
			return nil
		})
		b.sound[key] = once
	}
	b.mu.Unlock()
	return once()
}

func (b *bench) test(args []string) (string, error) {
	all := append([]string{"test", "-count=1", "-vet=off", "-failfast", "-timeout", b.limit.String()}, args...)
	cmd := exec.CommandContext(b.ctx, "go", all...)
	cmd.Dir = b.root
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// overlay writes the changed files and the list of them that the go command reads.
func (m *mutant) overlay(root, dir string) (string, error) {
	replace := make(map[string]string)
	for i, f := range m.files {
		path, err := filepath.Abs(filepath.Join(root, f.path))
		if err != nil {
			return "", fmt.Errorf("finding %s: %w", f.path, err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("reading what is changed: %w", err)
		}
		changed, err := f.apply(string(text))
		if err != nil {
			return "", err
		}
		if bytes.Equal(text, []byte(changed)) {
			return "", errors.New("it changes nothing")
		}
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(replace[path], []byte(changed), 0o600); err != nil {
			return "", fmt.Errorf("writing what is changed: %w", err)
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", fmt.Errorf("encoding the overlay: %w", err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, list, 0o600); err != nil {
		return "", fmt.Errorf("writing the overlay: %w", err)
	}
	return path, nil
}

func unbuilt(out string) bool {
	return strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]")
}

var failLine = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^(panic: .*)$|^(fatal error: .*)$`)

// failedTest names the test that failed, or how the run ended.
func failedTest(out string) string {
	m := failLine.FindStringSubmatch(out)
	if m == nil {
		return "the run failed"
	}
	return m[1] + m[2] + m[3]
}
