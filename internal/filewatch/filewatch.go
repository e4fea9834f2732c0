// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package filewatch tells when what a file says has changed: by an edit, by another file that was renamed into
// its place, or by a symbolic link anywhere on its way that leads elsewhere now, as Kubernetes swaps a ConfigMap.
//
// Directories are watched rather than files, which may be replaced. What no event tells of, as on network file systems,
// a look every few seconds finds. Only contents count: a file that was touched, or is gone for a moment, has not changed.
package filewatch

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long nothing may happen before a change is told: who edits in place writes more than once.
	settle = 100 * time.Millisecond
	// unrest is the longest wait for that.
	unrest = time.Second
	// interval is how often the file is looked at without an event.
	interval = 5 * time.Second
	// maxLinks bounds the links from one file to the next.
	maxLinks = 16
)

// A Watcher watches one file. Make it with New.
type Watcher struct {
	path    string
	changed func()
	events  *fsnotify.Watcher // nil: none can be had
	last    [sha256.Size]byte
	dirs    map[string]bool // watched
}

// New returns a watcher of a file as it is now; a file that cannot be read now has changed when it can. changed is called in
// Run's goroutine. err says why there are no events; the watcher works without, more slowly.
func New(path string, changed func()) (w *Watcher, err error) {
	w = &Watcher{path: path, changed: changed, dirs: map[string]bool{}}
	w.events, err = fsnotify.NewWatcher()
	if err != nil {
		w.events = nil
	}
	if addErr := w.follow(); err == nil {
		err = addErr
	}
	w.look()

	return w, err
}

// Run watches until ctx ends. Call it once.
func (w *Watcher) Run(ctx context.Context) {
	var events chan fsnotify.Event
	var errs chan error
	if w.events != nil {
		defer w.events.Close() //nolint:errcheck // nothing is lost
		events, errs = w.events.Events, w.events.Errors
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	quiet := time.NewTimer(0)
	quiet.Stop()
	defer quiet.Stop()
	var since time.Time // of the first event that was not looked into
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			if since.IsZero() {
				since = time.Now()
			}
			quiet.Reset(min(settle, unrest-time.Since(since)))
			continue
		case <-errs: // events were lost
		case <-tick.C:
		case <-quiet.C:
		}
		since = time.Time{}
		w.follow() //nolint:errcheck // the next look finds it
		if w.look() {
			w.changed()
		}
	}
}

// look reports whether the file can be read and has other contents than before.
func (w *Watcher) look() bool {
	text, err := os.ReadFile(w.path)
	if err != nil {
		return false
	}
	sum := sha256.Sum256(text)
	if sum == w.last {
		return false
	}
	w.last = sum

	return true
}

// follow watches the directories on the way to the file as the links are now. Its error is that no directory
// can be watched.
func (w *Watcher) follow() error {
	if w.events == nil {
		return nil
	}
	wanted := directories(w.path)
	for dir := range w.dirs {
		if !wanted[dir] {
			w.events.Remove(dir) //nolint:errcheck // it is gone
			delete(w.dirs, dir)
		}
	}
	var last error
	for dir := range wanted {
		// Once more is no harm, and needed for a directory that was made anew.
		if err := w.events.Add(dir); err != nil {
			last = err
			continue
		}
		w.dirs[dir] = true
	}
	if len(w.dirs) > 0 {
		return nil
	}

	return last
}

// directories returns those of a path and of each link that it leads to.
func directories(path string) map[string]bool {
	dirs := map[string]bool{}
	for range maxLinks {
		dirs[filepath.Dir(path)] = true
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	// Links among the directories lead to where the file really is.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		dirs[filepath.Dir(real)] = true
	}

	return dirs
}
