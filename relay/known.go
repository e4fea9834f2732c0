// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// Most calls of a connection have header blocks that came before. What the relay makes of such a
// block is made once, and kept with it.

// knownRequest is what a request's header list means. It is shared by calls, also in
// goroutines of their own, and does not change but for lists.
type knownRequest struct {
	grpc                bool // it is a POST of a gRPC content-type
	path, host, content string
	slash               int  // in path, see Call
	ok                  bool // path is canonical
	timeout             time.Duration
	req                 []hpack.Field

	// lists are what goes upstream, for each kind of endpoint that had such a call. Replaced, never changed in place.
	lists atomic.Pointer[[]upstreamList]

	// changes are what it becomes by changes of its fields, of which it has had depth. Replaced, never changed in place.
	changes     atomic.Pointer[[]knownChange]
	changeTries atomic.Int32
	depth       int
}

// upstreamList is a request's header list as it goes to endpoints of one kind: by the scheme, and the authority if that is
// not the caller's. Most backends are of one kind, however many endpoints they have.
type upstreamList struct {
	scheme, authority string
	list              *hpack.List
}

// maxUpstreamLists is for how many kinds of endpoints a request's list is kept at a time. Targets of a call to many may
// each have an authority of their own.
const maxUpstreamLists = 128

// takeKnown does what take does, and reports whether the request is one of gRPC.
func (c *Call) takeKnown(k *h2.Known) bool {
	r, ok := k.Note.(*knownRequest)
	if !ok {
		method := c.take(k.List.Fields)
		r = &knownRequest{
			grpc: method == "POST" && isGRPC(c.content),
			path: c.path, host: c.host, content: c.content, timeout: c.timeout, req: slices.Clip(slices.Clone(c.req)),
		}
		r.slash, r.ok = splitPath(r.path)
		k.Note = r
		return r.grpc
	}
	c.path, c.host, c.content, c.timeout = r.path, r.host, r.content, r.timeout
	c.req, c.known = r.req, r
	return r.grpc
}

// ownFields makes the request's fields the call's own, for changing them.
func (c *Call) ownFields() {
	if c.known != nil {
		c.req = append(c.ownArray(len(c.req)+1), c.req...)
		c.known = nil
	}
}

// askIdentity has the targets of a fanned-out call asked for answers without compression. mu is held.
func (c *Call) askIdentity() {
	if _, ok := c.Header("grpc-accept-encoding"); ok {
		c.SetHeader("grpc-accept-encoding", "identity")
	}
}

// list returns the header list that goes to uc, or nil where the fields are to be sent one by one. It is looked for at
// the place first, where that of a target mostly is. mu is held.
func (c *Call) list(uc *upConn, now time.Time, first int) *hpack.List {
	r := c.known
	if r == nil || c.retries > 0 || c.timeout > 0 && !c.timeoutAsIs(now) {
		return nil
	}
	scheme, authority := uc.scheme, uc.ep.cfg.Authority
	if p := r.lists.Load(); p != nil {
		for i, n := 0, len(*p); i < n; i++ {
			if l := &(*p)[(first+i)%n]; l.authority == authority && l.scheme == scheme {
				return l.list
			}
		}
	}
	l := c.newList(uc, now)
	r.add(upstreamList{scheme, authority, l})
	return l
}

// newList returns the list of the fields that go to uc, which may be known to other connections. mu is held.
func (c *Call) newList(uc *upConn, now time.Time) *hpack.List {
	array := sentFields.Get().(*[24]hpack.Field)
	l := c.srv.lists.of(c.upstreamFields(array[:0], uc, now))
	clear(array[:])
	sentFields.Put(array)
	return l
}

// add keeps a list.
func (r *knownRequest) add(l upstreamList) {
	var lists []upstreamList
	if p := r.lists.Load(); p != nil && len(*p) < maxUpstreamLists { // else from the start: endpoints come and go
		lists = slices.Clip(*p)
	}
	lists = append(lists, l)
	r.lists.Store(&lists) // of two at once, one is lost and made again
}

// knownLists gives header lists that are the same to different connections the same
// identity, so that what encoders remember of them serves all. The zero value is empty.
type knownLists struct {
	mu    sync.Mutex
	lists map[string]*hpack.List // guarded by mu
}

// What knownLists holds at most: so many lists, of so many octets each.
const (
	maxKnownLists     = 256
	maxKnownListBytes = 2 << 10
)

// keys holds memory for what lists are looked up by: each connection looks once for each list, and finds it as a rule.
var keys = sync.Pool{New: func() any { return new([]byte) }}

// of returns the list with these fields, which it does not keep.
func (k *knownLists) of(fields []hpack.Field) *hpack.List {
	key := keys.Get().(*[]byte)
	*key = appendKey((*key)[:0], fields)
	l := k.intern(*key, fields)
	if cap(*key) <= maxKnownListBytes {
		keys.Put(key)
	}
	return l
}

// intern returns the list with these fields, which have this key. It keeps neither.
func (k *knownLists) intern(key []byte, fields []hpack.Field) *hpack.List {
	if len(key) > maxKnownListBytes {
		return hpack.NewList(slices.Clone(fields))
	}
	k.mu.Lock()
	l := k.lists[string(key)]
	k.mu.Unlock()
	if l == nil {
		l = k.add(string(key), hpack.NewList(slices.Clone(fields)))
	}
	return l
}

// add makes l the list with the key, unless there is one by now, and returns that which it is.
func (k *knownLists) add(key string, l *hpack.List) *hpack.List {
	k.mu.Lock()
	defer k.mu.Unlock()
	if other := k.lists[key]; other != nil {
		return other
	}
	if len(k.lists) == maxKnownLists || k.lists == nil {
		k.lists = make(map[string]*hpack.List) // what is in use comes again
	}
	k.lists[key] = l
	return l
}

// appendKey appends what lists with the same fields have in common.
func appendKey(key []byte, fields []hpack.Field) []byte {
	for _, f := range fields {
		key = append(key, f.Name...)
		key = append(key, 0) // in no name and no value
		key = append(key, f.Value...)
		key = append(key, 0)
		if f.Sensitive {
			key = append(key, 0)
		}
	}
	return key
}

// knownResponse is what a header list of an upstream means.
type knownResponse struct {
	opens   bool       // it is a response that needs no further look; else trailers
	code    codes.Code // its grpc-status
	forward *hpack.List
}

// responseOf returns what is known of a header list, or nil. opens says that it is to be a response's.
func responseOf(head *h2.Head, opens bool) *knownResponse {
	if head.Known == nil {
		return nil
	}
	r, _ := head.Known.Note.(*knownResponse)
	if r == nil || r.opens != opens {
		return nil
	}
	return r
}

// noteResponse keeps what a header list means: forward is what of it is forwarded. What other connections to upstreams have
// too goes to the client as the same list.
func (c *Call) noteResponse(head *h2.Head, opens bool, forward []hpack.Field) {
	if head.Known == nil {
		return
	}
	l := c.srv.lists.of(forward)
	head.Known.Note = &knownResponse{opens: opens, code: codeOf(find(l.Fields, "grpc-status")), forward: l}
}
