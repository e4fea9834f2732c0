// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"slices"
	"strings"
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
	method, path, host, content string
	timeout                     time.Duration
	req                         []hpack.Field

	// lists are what goes upstream, for each endpoint that had such a call. Replaced, never changed in place.
	lists atomic.Pointer[[]upstreamList]
}

// upstreamList is a request's header list as it goes to an endpoint.
type upstreamList struct {
	ep   *Endpoint
	list *hpack.List
}

// maxUpstreamLists is for how many endpoints a request's list is kept at a time.
const maxUpstreamLists = 8

// takeKnown does what take does.
func (c *Call) takeKnown(k *h2.Known) (method string) {
	r, ok := k.Note.(*knownRequest)
	if !ok {
		method = c.take(k.List.Fields)
		k.Note = &knownRequest{
			method: method, path: c.path, host: c.host, content: c.content, timeout: c.timeout,
			req: slices.Clip(slices.Clone(c.req)),
		}
		return method
	}
	c.path, c.host, c.content, c.timeout = r.path, r.host, r.content, r.timeout
	c.req, c.known = r.req, r
	return r.method
}

// ownFields makes the request's fields the call's own, for changing them.
func (c *Call) ownFields() {
	if c.known != nil {
		c.req = append(c.reqArray[:0], c.req...)
		c.known = nil
	}
}

// list returns the header list that goes to uc, or nil where the fields are to be sent one by one. mu is held.
func (c *Call) list(uc *upConn, now time.Time) *hpack.List {
	r := c.known
	if r == nil || c.retries > 0 || c.timeout > 0 && !c.timeoutAsIs(now) {
		return nil
	}
	var lists []upstreamList
	if p := r.lists.Load(); p != nil {
		lists = *p
	}
	for i := range lists {
		if lists[i].ep == uc.ep {
			return lists[i].list
		}
	}
	if len(lists) == maxUpstreamLists {
		lists = nil // endpoints come and go
	}
	l := uc.ep.lists.intern(c.upstreamFields(nil, uc, now))
	lists = append(slices.Clip(lists), upstreamList{uc.ep, l})
	r.lists.Store(&lists) // of two at once, one makes it again
	return l
}

// knownLists gives header lists that are the same to different connections the same
// identity, so that what encoders remember of them serves all. The zero value is empty.
type knownLists struct {
	mu    sync.Mutex
	lists map[string]*hpack.List // guarded by mu
}

// What knownLists holds at most: so many lists, of so many octets each.
const (
	maxKnownLists     = 64
	maxKnownListBytes = 2 << 10
)

// intern returns the list with these fields.
func (k *knownLists) intern(fields []hpack.Field) *hpack.List {
	var key strings.Builder
	for _, f := range fields {
		key.WriteString(f.Name)
		key.WriteByte(0) // in no name and no value
		key.WriteString(f.Value)
		key.WriteByte(0)
		if f.Sensitive {
			key.WriteByte(0)
		}
	}
	if key.Len() > maxKnownListBytes {
		return hpack.NewList(fields)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.lists[key.String()]
	if l == nil {
		if len(k.lists) == maxKnownLists || k.lists == nil {
			k.lists = make(map[string]*hpack.List) // what is in use comes again
		}
		l = hpack.NewList(fields)
		k.lists[key.String()] = l
	}
	return l
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

// noteResponse keeps what a header list means: forward is what of it is forwarded.
func noteResponse(head *h2.Head, opens bool, forward []hpack.Field) {
	if head.Known == nil {
		return
	}
	l := head.Known.List
	if len(forward) != len(l.Fields) {
		l = hpack.NewList(slices.Clone(forward))
	}
	head.Known.Note = &knownResponse{opens: opens, code: codeOf(find(l.Fields, "grpc-status")), forward: l}
}
