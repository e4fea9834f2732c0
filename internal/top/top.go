// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/manifold-grpc/manifold/internal/status"
)

// Options are what Run shows, and how.
type Options struct {
	// URL is that of the admin endpoint; see BaseURL.
	URL string
	// Interval is the time between two looks. Default: a second.
	Interval time.Duration
	// Sort is what comes first, until a key says something else.
	Sort Sort
	// Once has what there is written once, in full length. So it is where Out is no terminal.
	Once bool
	// Plain is whether renditions are left out on a terminal too; elsewhere there are none.
	Plain bool
	// Out is written to. In is where keys come from if it is a terminal; nil: there are none.
	Out io.Writer
	In  *os.File
	// Signals end it.
	Signals <-chan os.Signal
}

// widthElsewhere is the width where there is no terminal.
const widthElsewhere = 120

// Run shows a daemon until a person or a signal ends it, or once. Its error is that the daemon could not be asked at the beginning,
// or that Out cannot be written to. The terminal is as it was when Run returns.
func Run(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ask, done := newSource(o.URL)
	defer done()
	first, err := ask(ctx, 0)
	if err != nil {
		return err
	}
	var m Model
	m.Take(first)
	out, ok := o.Out.(*os.File)
	tty := ok && term.IsTerminal(int(out.Fd()))
	v := View{Width: widthElsewhere, Sort: o.Sort, Colour: tty && !o.Plain}
	if o.Once || !tty {
		if tty {
			v.Width, _ = sizeOf(out)
		}
		lines, _ := Render(&m, v)
		_, err := io.WriteString(o.Out, strings.Join(lines, "\n")+"\n")

		return err
	}

	return o.onTerminal(ctx, out, &session{model: &m, view: v, ask: ask})
}

// onTerminal runs a session on a terminal, which it prepares and puts back.
func (o *Options) onTerminal(ctx context.Context, out *os.File, s *session) error {
	s.out, s.size, s.signals, s.interval = out, func() (int, int) { return sizeOf(out) }, o.Signals, o.Interval
	var stop func()
	s.resized, stop = watchSize()
	defer stop()
	if o.In != nil && term.IsTerminal(int(o.In.Fd())) {
		state, err := term.MakeRaw(int(o.In.Fd()))
		if err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		defer term.Restore(int(o.In.Fd()), state) //nolint:errcheck // nothing else can be done
		k, err := openKeys(o.In)
		if err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		defer k.close()
		s.keys = k.read
	}
	defer io.WriteString(out, leave) //nolint:errcheck // nothing else can be done

	return s.run(ctx)
}

// sizeOf returns the columns and lines of a terminal.
func sizeOf(f *os.File) (width, height int) {
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24
	}

	return width, height
}

// Private modes of xterm (DEC): the other screen, no cursor, no line wrap; and back.
const (
	enter = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	leave = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// session is a live view. run owns it.
type session struct {
	model    *Model // that knows a status
	view     View
	ask      source
	interval time.Duration

	out     io.Writer
	size    func() (width, height int)
	keys    <-chan string // what was typed; nil or closed: nothing any more
	resized <-chan os.Signal
	signals <-chan os.Signal

	scrolled int // as drawn
}

// run draws until the quit key, a signal, or the end of ctx.
func (s *session) run(ctx context.Context) error {
	if s.interval <= 0 {
		s.interval = time.Second
	}
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan answer)
	var asking sync.WaitGroup
	asking.Go(func() { s.poll(ctx, s.model.Status, answers) }) // ends with ctx
	defer asking.Wait()
	defer cancel()
	if _, err := io.WriteString(s.out, enter); err != nil {
		return err
	}
	for {
		if err := s.draw(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.signals:
			return nil
		case <-s.resized:
		case a := <-answers:
			s.take(a)
		case text, ok := <-s.keys:
			if !ok {
				s.keys = nil
			}
			if s.press(text) {
				return nil
			}
		}
	}
}

// answer is what the daemon said.
type answer struct {
	status *status.Status
	err    error
}

// poll asks once an interval for what is new after last, and hands each answer over, until ctx ends. It only reads what it hands over, as
// the drawing does.
func (s *session) poll(ctx context.Context, last *status.Status, answers chan<- answer) {
	tick := time.NewTicker(s.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a := answer{}
		a.status, a.err = s.ask(ctx, last.Seq)
		if a.err == nil && restarted(last, a.status) { // the points were counted from another start
			a.status, a.err = s.ask(ctx, 0)
		}
		if a.err == nil {
			last = a.status
		}
		select {
		case <-ctx.Done():
			return
		case answers <- a:
		}
	}
}

func (s *session) take(a answer) {
	s.view.Err = a.err
	if a.err == nil {
		s.model.Take(a.status)
	}
}

// press does what keys say, and reports whether that is to quit.
func (s *session) press(text string) (quit bool) {
	_, height := s.size()
	page := max(1, height/2)
	for _, k := range parseKeys(text) {
		at := s.scrolled
		switch k {
		case keyQuit:
			return true
		case keyUp:
			at--
		case keyDown:
			at++
		case keyPageUp:
			at -= page
		case keyPageDown:
			at += page
		case keyHome:
			at = 0
		case keyEnd:
			at = 1 << 30
		default:
			s.view.Sort = Sort(k - keySort)
		}
		s.view.Scroll = max(0, at)
		s.scrolled = s.view.Scroll // for the next key of the same text
	}

	return false
}

// draw writes a screen in one go, so that nothing flickers.
func (s *session) draw() error {
	s.view.Width, s.view.Height = s.size()
	var lines []string
	lines, s.scrolled = Render(s.model, s.view)
	s.view.Scroll = s.scrolled
	// Each line is cleared before, not after it: behind the last column the cursor still is on it.
	text := "\x1b[H\x1b[2K" + strings.Join(lines, "\r\n\x1b[2K")
	_, err := io.WriteString(s.out, text)

	return err
}
