package main

import (
	"fmt"
	"io"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progressView shows how far things are: bars on a terminal, a line every
// tenth elsewhere. Its methods may be called from any goroutine.
type progressView struct {
	bars *mpb.Progress // nil: no terminal
	mu   sync.Mutex
	w    io.Writer
}

func (a *app) newProgressView() *progressView {
	v := &progressView{w: a.err}
	if isTerminal(a.err) {
		v.bars = mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(40))
	}
	return v
}

// close waits until the bars are drawn for the last time.
func (v *progressView) close() {
	if v.bars != nil {
		v.bars.Wait()
	}
}

// say prints a line, above the bars.
func (v *progressView) say(line string) {
	if v.bars != nil {
		// What cannot be shown is not worth failing for.
		_, _ = fmt.Fprintf(v.bars, "  %s\n", line)
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	fmt.Fprintf(v.w, "  %s\n", line)
}

// progressBar is the progress of one thing that has total steps.
type progressBar struct {
	view  *progressView
	bar   *mpb.Bar
	name  string
	total int64

	mu    sync.Mutex
	steps int64
}

func (v *progressView) start(name string, total int64) *progressBar {
	b := &progressBar{view: v, name: name, total: total}
	if v.bars != nil {
		b.bar = v.bars.AddBar(total, mpb.BarRemoveOnComplete(), // done says how it went
			mpb.PrependDecorators(decor.Name(fmt.Sprintf("  %-10s", name))),
			mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.Name("  "), decor.AverageETA(decor.ET_STYLE_GO), decor.Name(" left")),
		)
	}
	return b
}

func (b *progressBar) add(n int64) {
	if b.bar != nil {
		b.bar.IncrInt64(n)
		return
	}
	b.mu.Lock()
	before := b.steps * 10 / b.total
	b.steps += n
	after := b.steps * 10 / b.total
	b.mu.Unlock()
	if after > before && after < 10 {
		b.view.say(fmt.Sprintf("%-10s %3d %%", b.name, after*10))
	}
}

// done ends the bar, complete or not.
func (b *progressBar) done(result string) {
	if b.bar != nil {
		b.bar.Abort(true) // no effect on a complete one
	}
	b.view.say(fmt.Sprintf("%-10s %s", b.name, result))
}
