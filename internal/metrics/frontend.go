// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// Frontend counts what happens at a listener besides calls. Its methods are hooks of relay.Hooks.
type Frontend struct {
	name       string
	generation uint64 // guarded by the registry's mu

	// unrouted is the calls that were refused before a route was looked for.
	unrouted atomic.Pointer[Cell]

	opened   atomic.Uint64
	closed   tally
	rejected tally
	glitches tally
	reasons  tally
}

// Frontend returns the counters of a frontend.
func (r *Registry) Frontend(name string) *Frontend {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.frontends[name]
	if f == nil {
		f = &Frontend{name: name}
		if r.frontends == nil {
			r.frontends = map[string]*Frontend{}
		}
		r.frontends[name] = f
	}
	f.generation = r.generation
	f.unrouted.Store(r.cell(Key{Frontend: name, Service: Other, Method: Other, Kind: BidiStream}))

	return f
}

// Unrouted returns the cell of calls that have no route.
func (f *Frontend) Unrouted() *Cell { return f.unrouted.Load() }

// ConnOpened counts a connection.
func (f *Frontend) ConnOpened(net.Addr) { f.opened.Add(1) }

// ConnClosed counts why a connection ended.
func (f *Frontend) ConnClosed(_ net.Addr, err error) { f.closed.add(reasonOf(err)) }

// ConnRejected counts a connection that was turned away.
func (f *Frontend) ConnRejected(_ net.Addr, reason string) { f.rejected.add(reason) }

// Glitch counts a useless frame.
func (f *Frontend) Glitch(kind string) { f.glitches.add(kind) }

// Failed counts a call that the proxy itself gave its status.
func (f *Frontend) Failed(reason string) { f.reasons.add(reason) }

// reasonOf returns why a connection ended, in a word: the name that the rule has which the client broke, or what kind of an end it was.
func reasonOf(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return "closed"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	if _, rest, ok := strings.Cut(err.Error(), " ("); ok {
		if name, _, ok := strings.Cut(rest, ")"); ok && isName(name) {
			return name
		}
	}

	return "lost"
}

// isName reports whether s looks like the stable name of a reason.
func isName(s string) bool {
	return s != "" && len(s) <= 40 && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}

// maxWords bounds the names in a tally.
const maxWords = 64

// tally counts by names. They come from the source, so there are few; should there be more after all, the rest are "other".
type tally struct {
	words sync.Map // string to *atomic.Uint64
	n     atomic.Int32
}

func (t *tally) add(word string) {
	v, ok := t.words.Load(word)
	if !ok {
		if t.n.Load() >= maxWords {
			word = Other
		}
		if v, ok = t.words.LoadOrStore(word, new(atomic.Uint64)); !ok {
			t.n.Add(1)
		}
	}
	v.(*atomic.Uint64).Add(1)
}

// counts returns the counts by names.
func (t *tally) counts() map[string]uint64 {
	var m map[string]uint64
	t.words.Range(func(k, v any) bool {
		if m == nil {
			m = map[string]uint64{}
		}
		m[k.(string)] = v.(*atomic.Uint64).Load()

		return true
	})

	return m
}

// FrontendCounts is what a Frontend has counted.
type FrontendCounts struct {
	Accepted                    uint64
	Rejected, Reasons, Glitches map[string]uint64
}

// Counts returns what was counted so far.
func (f *Frontend) Counts() FrontendCounts {
	return FrontendCounts{f.opened.Load(), f.rejected.counts(), f.reasons.counts(), f.glitches.counts()}
}
