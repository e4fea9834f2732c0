// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"slices"

	"github.com/manifold-grpc/manifold/internal/h2/hpack"
)

// HeaderChanges are changes to a header block: what is in Remove is removed first, then Set, then added. The zero value changes
// nothing. It must not change while calls use it, any number of which may.
//
// Names are in lower case, and values as on the wire. Pseudo-header fields, content-type, and names that begin with
// "grpc-" are for gRPC to set: to change them makes answers that clients cannot read.
type HeaderChanges struct {
	// Remove is names, of which all fields go.
	Remove []string
	// Set is fields in place of all others of the name: where the first of them is, else at the end.
	Set []HeaderField
	// Add is fields beside those that are there, at the end.
	Add []HeaderField
}

// HeaderField is a name in lower case with a value.
type HeaderField struct{ Name, Value string }

// SetResponseHeaders has changes made to the header block that opens the backend's response, or the joined one of a call to many
// targets. Where a backend's answer is all in one header block (Trailers-Only), it is that. Trailers stay as they are,
// and so do the relay's own failures. nil is none. It must come before Forward.
func (c *Call) SetResponseHeaders(changes *HeaderChanges) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes = changes
}

// appendTo appends the fields with the changes made to dst, which must not share memory with them.
func (h *HeaderChanges) appendTo(dst, fields []hpack.Field) []hpack.Field {
	for _, f := range fields {
		if !slices.Contains(h.Remove, f.Name) {
			dst = append(dst, f)
		}
	}
	for _, s := range h.Set {
		dst = setField(dst, s)
	}
	for _, a := range h.Add {
		dst = append(dst, hpack.Field{Name: a.Name, Value: a.Value})
	}
	return dst
}

// setField sets one field, in place.
func setField(fields []hpack.Field, s HeaderField) []hpack.Field {
	set, kept := false, fields[:0]
	for _, f := range fields {
		if f.Name == s.Name {
			if set {
				continue
			}
			set, f.Value = true, s.Value
		}
		kept = append(kept, f)
	}
	if !set {
		kept = append(kept, hpack.Field{Name: s.Name, Value: s.Value})
	}
	return kept
}
