// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/manifold-grpc/manifold/internal/h2"
	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// fieldsWith returns the fields of a call of gRPC, and more.
func fieldsWith(more ...hpack.Field) []hpack.Field {
	return append([]hpack.Field{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/a.B/C"},
		{Name: ":authority", Value: "here"}, {Name: "content-type", Value: "application/grpc"},
	}, more...)
}

// known returns what a connection knows of a header list that came before.
func known(fields []hpack.Field) *h2.Known {
	k := &h2.Known{List: hpack.NewList(fields)}
	newCall().takeKnown(k)
	return k
}

func newCall() *Call { return &Call{dc: originConn} }

// callOf returns a call with the header list.
func callOf(k *h2.Known) *Call {
	c := newCall()
	c.takeKnown(k)
	return c
}

// A request that is changed in the same way again is known as it is then, once it has been seen so once, and once more for each change before.
func TestChangedRequestIsKnown(t *testing.T) {
	k := known(fieldsWith(hpack.Field{Name: "grpc-accept-encoding", Value: "gzip"}))
	var last *knownRequest
	for i := range 9 {
		c := callOf(k)
		c.SetHeader("via", "me")
		c.AddHeader("tag", "x")
		c.AddHeader("tag", "y")
		c.DelHeader("nothing")
		c.askIdentity()
		want := lines(fieldsWith(hpack.Field{Name: "grpc-accept-encoding", Value: "identity"},
			hpack.Field{Name: "via", Value: "me"}, hpack.Field{Name: "tag", Value: "x"}, hpack.Field{Name: "tag", Value: "y"}))
		if got := lines(c.req); !slices.Equal(got, want) {
			t.Fatalf("call %d has %q, want %q", i, got, want)
		}
		if i >= 6 && (c.known == nil || c.known != last) {
			t.Errorf("call %d is known as %p, want %p", i, c.known, last)
		}
		last = c.known
	}
	if n := testing.AllocsPerRun(100, func() {
		c := Call{req: last.req, known: k.Note.(*knownRequest)}
		c.SetHeader("via", "me")
	}); n != 0 {
		t.Errorf("a change that came before makes %v allocations", n)
	}
	if c := callOf(k); c.req[len(c.req)-1].Value != "gzip" {
		t.Errorf("the request itself is now %q", lines(c.req))
	}
}

// A value of its own for each call is not kept, and neither are more changes than a request has room for.
func TestChangesThatDiffer(t *testing.T) {
	k := known(fieldsWith())
	r := k.Note.(*knownRequest)
	for i := range 1000 {
		c := callOf(k)
		c.SetHeader("trace", fmt.Sprint(i))
		if c.known != nil || c.req[len(c.req)-1].Value != fmt.Sprint(i) {
			t.Fatalf("call %d is known, or has %q", i, lines(c.req))
		}
		if n := len(*r.changes.Load()); n > maxKnownChanges {
			t.Fatalf("%d changes are kept after call %d", n, i)
		}
	}
	before := r.changes.Load()
	callOf(k).SetHeader("trace", "another")
	if r.changes.Load() != before {
		t.Error("the request still learns changes, of which none came again")
	}

}

// So many changes in a row are kept, and no more.
func TestChangesInARow(t *testing.T) {
	k := known(fieldsWith())
	for range 3 * maxChangeDepth {
		c := callOf(k)
		for i := range 2 * maxChangeDepth {
			c.AddHeader("deep", fmt.Sprint(i))
		}
	}
	c, deep := callOf(k), 0
	for c.known != nil {
		c.AddHeader("deep", fmt.Sprint(deep))
		deep++
	}
	if deep != maxChangeDepth+1 {
		t.Errorf("the request is known until %d fields are added, want %d", deep, maxChangeDepth+1)
	}
}

// Whatever the changes, and in whatever order, a known request becomes what one that is not known becomes.
func TestAnyChanges(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{":authority", "a", "b", "grpc-timeout", "c"}
	k := known(fieldsWith(hpack.Field{Name: "a", Value: "1"}, hpack.Field{Name: "b", Value: "1"}, hpack.Field{Name: "a", Value: "2"}))
	for i := range 20_000 {
		c, plain := callOf(k), new(Call)
		plain.req = slices.Clone(c.req)
		for range rnd.IntN(4) {
			x := fieldChange{fieldOp(rnd.IntN(3)), names[rnd.IntN(len(names))], fmt.Sprint(rnd.IntN(2))}
			if x.op == delHeader {
				x.value = ""
			}
			c.change(x)
			plain.change(x)
		}
		if got, want := lines(c.req), lines(plain.req); !slices.Equal(got, want) {
			t.Fatalf("after %d calls the fields are %q, want %q", i, got, want)
		}
	}
}
