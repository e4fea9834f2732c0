// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"slices"
	"testing"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// The same response of two connections goes to clients as one list, another as another.
func TestResponsesShareLists(t *testing.T) {
	c := &Call{srv: new(Server)}
	forward := func(opens bool, fields ...hpack.Field) *hpack.List {
		l := hpack.NewList(fields)
		head := h2.Head{Fields: fields, Known: &h2.Known{List: l}}
		c.noteResponse(&head, opens, fields)
		r := responseOf(&head, opens)
		if r == nil || !slices.Equal(lines(r.forward.Fields), lines(fields)) {
			t.Fatalf("what is known of %q is %+v", lines(fields), r)
		}
		return r.forward
	}
	status, kind := hpack.Field{Name: ":status", Value: "200"}, hpack.Field{Name: "content-type", Value: "application/grpc"}
	first := forward(true, status, kind)
	if forward(true, status, kind) != first {
		t.Error("the same fields of another connection are another list")
	}
	if forward(true, status) == first || forward(false, hpack.Field{Name: "grpc-status", Value: "0"}) == first {
		t.Error("other fields are the same list")
	}
}

// Memory of a call that is over serves the next of the same turn, and is not held after the turn.
func TestSpareCalls(t *testing.T) {
	d := &downConn{srv: new(Server), set: new(settings)}
	newCall := func() *Call { return d.NewStream(nil).Owner.(*Call) }
	a, b := newCall(), newCall()
	if a == b {
		t.Fatal("two calls have the same memory")
	}
	for _, c := range []*Call{a, b} {
		c.path, c.stage, c.mayReuse = "/a.B/C", stageDone, true // refused: there is no stream but the client's
		d.Released(&c.down)
	}
	if c := newCall(); c != b || c.path != "" || c.next != nil {
		t.Errorf("the next call is %p with path %q and next %p, want %p, empty", c, c.path, c.next, b)
	}
	if c := newCall(); c != a {
		t.Errorf("the one after it is %p, want %p", c, a)
	}
	a.stage, a.mayReuse = stageDone, true
	d.Released(&a.down)
	if d.Turned(); d.spare != nil {
		t.Error("memory is held after the turn")
	}
}
