// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"slices"
	"strings"

	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// A route mostly changes the headers of its calls in the same way. What a known request becomes by a change is kept with it, so
// that the changed one is known as well, and its fields go upstream as a list and not one by one.

// A fieldChange is a call of SetHeader, AddHeader or DelHeader.
type fieldChange struct {
	op          fieldOp
	name, value string
}

type fieldOp uint8

const (
	setHeader fieldOp = iota
	addHeader
	delHeader
)

// knownChange is a change that a known request had.
type knownChange struct {
	fieldChange
	to *knownRequest // nil: it came once, as one with a value of its own for each call does
}

const (
	// maxKnownChanges is how many are kept for a request. When there are more it begins anew, up to maxChangeTries times: what is
	// another with each call is not worth it.
	maxKnownChanges = 4
	maxChangeTries  = 16

	// maxChangeDepth is how many changes in a row are kept.
	maxChangeDepth = 8
)

// change changes the request's fields.
func (c *Call) change(x fieldChange) {
	r := c.known
	if r == nil {
		x.apply(c)
		return
	}
	seen := false
	if p := r.changes.Load(); p != nil {
		for i := range *p {
			if k := &(*p)[i]; k.fieldChange == x {
				if k.to != nil {
					c.req, c.known = k.to.req, k.to
					return
				}
				seen = true
			}
		}
	}
	c.ownFields()
	x.apply(c)
	if seen {
		to := r.with(c.req)
		to.depth = r.depth + 1
		r.keepChange(knownChange{x, to})
		c.req, c.known = to.req, to
	} else {
		r.keepChange(knownChange{fieldChange: x})
	}
}

// keepChange keeps k in place of what is known of the same change, if there is room. Of two at once, one is lost and comes again.
func (r *knownRequest) keepChange(k knownChange) {
	var changes []knownChange
	if p := r.changes.Load(); p != nil {
		changes = slices.DeleteFunc(slices.Clone(*p), func(o knownChange) bool { return o.fieldChange == k.fieldChange })
	}
	if r.depth == maxChangeDepth {
		return
	}
	if len(changes) == maxKnownChanges {
		if r.changeTries.Add(1) > maxChangeTries {
			r.changeTries.Store(maxChangeTries)
			return
		}
		changes = changes[:0]
	}
	changes = append(changes, k)
	r.changes.Store(&changes)
}

// with returns r with other fields, which it copies.
func (r *knownRequest) with(req []hpack.Field) *knownRequest {
	return &knownRequest{
		grpc: r.grpc, path: r.path, host: r.host, content: r.content, slash: r.slash, ok: r.ok,
		timeout: r.timeout, req: slices.Clip(slices.Clone(req)),
	}
}

// apply changes fields that are the call's own.
func (x fieldChange) apply(c *Call) {
	isName := func(f hpack.Field) bool { return f.Name == x.name }
	switch x.op {
	case delHeader:
		c.req = slices.DeleteFunc(c.req, isName)
		return
	case setHeader:
		if i := slices.IndexFunc(c.req, isName); i >= 0 {
			c.req[i].Value = x.value
			rest := slices.DeleteFunc(c.req[i+1:], isName)
			c.req = c.req[:i+1+len(rest)]
			return
		}
	}
	f := hpack.Field{Name: x.name, Value: x.value}
	if strings.HasPrefix(x.name, ":") {
		c.req = slices.Insert(c.req, 0, f) // RFC 9113 section 8.3: before all regular fields
		return
	}
	c.req = append(c.req, f)
}
