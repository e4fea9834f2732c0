// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config says where lines go. The zero value is standard output.
type Config struct {
	// Path is the file that lines are appended to. It is opened again when it was renamed or removed, which is
	// looked at about once a second, and by [Writer.Reopen]. Empty: Output.
	Path string
	// Output is what is written to without a path; nil: standard output. It is not closed.
	Output io.Writer
	// Buffer bounds the octets that wait to be written. Default 4 MiB.
	Buffer int
	// Flush is how long a line may wait. Default 1 s.
	Flush time.Duration
	// Log is told when lines cannot be written, and when they can be again. nil: nobody is.
	Log *slog.Logger
}

// writeAt is how much is waited for before it is written earlier than by time.
const writeAt = 256 << 10

// A Writer writes lines in its own goroutine. Its methods are safe for concurrent use.
type Writer struct {
	cfg Config

	dropped atomic.Uint64
	written atomic.Uint64

	wake chan struct{} // has one: there is something, or much
	done chan struct{} // closed when run has ended

	mu sync.Mutex
	// Guarded by mu.
	waiting    []byte
	lines      int
	idle       bool // run waits for the first line
	reopen     bool
	next       *Output // in whose place to go on
	split      int     // with next: octets and lines that waited before
	splitLines int
	closed     bool

	// Owned by run.
	at      Output
	checked time.Time
	failing bool
}

// An Output is a place for lines, open. It belongs to the [Writer] that is to use it, or else is closed.
type Output struct {
	path string // empty: out is not a file that may be renamed
	out  io.Writer
	file *os.File
	info os.FileInfo
}

// OpenOutput opens a file to append to; without a path, standard output.
func OpenOutput(path string) (*Output, error) {
	if path == "" {
		return &Output{out: os.Stdout}, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // a log that others may read
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close() //nolint:errcheck // of no use
		return nil, err
	}

	return &Output{path, f, f, info}, nil
}

// Close closes an output that no writer uses.
func (o *Output) Close() {
	if o.file != nil {
		o.file.Close() //nolint:errcheck // all that was written to it was
	}
}

// Open opens the file and starts to write. Its owner closes it.
func Open(cfg Config) (*Writer, error) {
	if cfg.Buffer == 0 {
		cfg.Buffer = 4 << 20
	}
	if cfg.Flush == 0 {
		cfg.Flush = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	w := &Writer{cfg: cfg, wake: make(chan struct{}, 1), done: make(chan struct{}), at: Output{out: cfg.Output}, idle: true}
	if cfg.Path != "" || cfg.Output == nil {
		at, err := OpenOutput(cfg.Path)
		if err != nil {
			return nil, err
		}
		w.at = *at
	}
	go w.run() // until Close

	return w, nil
}

// Dropped returns the number of lines that were dropped, Written of those that were written.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Written returns the number of lines that were written.
func (w *Writer) Written() uint64 { return w.written.Load() }

// add takes a line, or drops it.
func (w *Writer) add(line []byte) {
	w.mu.Lock()
	if w.closed || len(w.waiting)+len(line) > w.cfg.Buffer {
		w.mu.Unlock()
		w.dropped.Add(1)
		return
	}
	before := len(w.waiting)
	w.waiting = append(w.waiting, line...)
	w.lines++
	wake := w.idle || before < writeAt && len(w.waiting) >= writeAt
	w.idle = false
	w.mu.Unlock()
	if wake {
		w.signal()
	}
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Reopen has the file opened again, before the next line that comes.
func (w *Writer) Reopen() {
	w.mu.Lock()
	w.reopen = true
	w.mu.Unlock()
	w.signal()
}

// Use has lines that come from now on written elsewhere; those that wait still go to where they would have gone. What was used
// before is closed.
func (w *Writer) Use(o *Output) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next != nil {
		w.next.Close() // nothing was written to it: its lines go to o
	} else {
		w.split, w.splitLines = len(w.waiting), w.lines
	}
	w.next = o
	if w.closed {
		w.next = nil
		o.Close()
	}
	w.signal()
}

// closeTimeout bounds Close: an output that takes nothing, such as a pipe that nobody reads, is not to hold up who stops.
const closeTimeout = 5 * time.Second

// Close writes what waits and ends. Lines that come later are dropped. An output that takes nothing for 5 s is left to itself.
func (w *Writer) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.signal()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
		w.cfg.Log.Error("access log takes no lines, those that wait are lost")
	}
}

// run writes until Close.
func (w *Writer) run() {
	defer close(w.done)
	defer func() { w.at.Close() }()
	timer := time.NewTimer(w.cfg.Flush)
	defer timer.Stop()
	var spare []byte
	for {
		<-w.wake // the first line, much, a new file, or the end
		timer.Reset(w.cfg.Flush)
		if !w.urgent() {
			select {
			case <-timer.C:
			case <-w.wake:
			}
		}
		t := w.take(spare)
		w.do(t)
		spare = t.text[:0]
		if t.closed {
			return
		}
		w.rest()
	}
}

// urgent reports whether there is no time to wait for more lines.
func (w *Writer) urgent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()

	return w.closed || w.reopen || w.next != nil || len(w.waiting) >= writeAt
}

// taken is what there is to do.
type taken struct {
	text           []byte
	lines          int
	next           *Output // for what comes after split octets, which are splitLines lines
	split          int
	splitLines     int
	reopen, closed bool
}

// do writes what was taken.
func (w *Writer) do(t taken) {
	if t.next == nil {
		w.write(t.text, t.lines, t.reopen)
		return
	}
	w.write(t.text[:t.split], t.splitLines, t.reopen)
	w.at.Close()
	w.at = *t.next
	w.write(t.text[t.split:], t.lines-t.splitLines, false)
}

// take returns what there is to do, and leaves spare in the place of what waits.
func (w *Writer) take(spare []byte) taken {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := taken{w.waiting, w.lines, w.next, w.split, w.splitLines, w.reopen, w.closed}
	w.waiting, w.lines, w.next, w.reopen = spare, 0, nil, false

	return t
}

// rest has the next line wake run, unless there is one already.
func (w *Writer) rest() {
	w.mu.Lock()
	w.idle = len(w.waiting) == 0 && !w.closed && !w.reopen && w.next == nil
	idle := w.idle
	w.mu.Unlock()
	if !idle {
		w.signal()
	}
}

// write writes n lines. Those that cannot be are dropped.
func (w *Writer) write(lines []byte, n int, reopen bool) {
	w.checkFile(reopen)
	if n == 0 {
		return
	}
	if _, err := w.at.out.Write(lines); err != nil {
		w.dropped.Add(uint64(n))
		w.failed(err)
		return
	}
	w.written.Add(uint64(n))
	w.recovered()
}

func (w *Writer) failed(err error) {
	if !w.failing {
		w.failing = true
		w.cfg.Log.Error("access log cannot be written", "file", w.at.path, "error", err)
	}
}

func (w *Writer) recovered() {
	if w.failing {
		w.failing = false
		w.cfg.Log.Info("access log is written again", "file", w.at.path, "dropped", w.dropped.Load())
	}
}

// checkFile opens the file again where that is asked for, or if its name leads elsewhere now.
func (w *Writer) checkFile(reopen bool) {
	if w.at.path == "" {
		return
	}
	now := time.Now()
	if !reopen && now.Sub(w.checked) < time.Second {
		return
	}
	w.checked = now
	if info, err := os.Stat(w.at.path); !reopen && err == nil && os.SameFile(info, w.at.info) {
		return
	}
	again, err := OpenOutput(w.at.path)
	if err != nil {
		w.failed(err) // and the old file stays in use
		return
	}
	w.at.Close()
	w.at = *again
}
