// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Annotator writes one source's name and errors into its answers.
//
// It is immutable and safe for concurrent use. The zero value changes no
// answer and leaves every error to fail the call, as proxy.SingleBackend does.
type Annotator struct {
	layout   Layout
	name     string
	hostname []byte // the hostname field of the metadata, encoded
	info     []byte // what a good element gets: the metadata field, encoded
}

// New returns an annotator that names its source name, by the given layout.
//
// It fails if layout has a field number that protobuf does not allow or uses
// one twice, or if name is empty or not UTF-8, which no decoder would accept
// in a string field.
func New(layout Layout, name string) (*Annotator, error) {
	layout = layout.withDefaults()
	if err := layout.validate(); err != nil {
		return nil, err
	}
	if name == "" {
		return nil, errors.New("splice: the name of the source is empty")
	}
	if !utf8.ValidString(name) {
		return nil, errors.New("splice: the name of the source is not valid UTF-8")
	}
	a := &Annotator{layout: layout, name: name}
	if layout.Hostname != 0 {
		a.hostname = protowire.AppendTag(nil, layout.Hostname, protowire.BytesType)
		a.hostname = protowire.AppendString(a.hostname, name)
		a.info = appendMessage(nil, layout.Metadata, a.hostname)
	}
	return a, nil
}

// String returns the name of the source.
func (a *Annotator) String() string { return a.name }

// AppendInfo returns resp with the name of the source in every element.
//
// With streaming, resp is one message of a stream and is the element. Without,
// it is the reply of a unary method and each value of its element field is one;
// other fields are kept as they are, in their order. A reply without elements
// gets one unless [Layout.KeepEmpty] is set.
//
// The caller must own resp, as a proxy.Backend does: the message of a stream is
// extended in place if its capacity allows. The bytes of resp are not changed,
// and a reply is always written to memory of its own. An answer that is not protobuf, or whose element field
// does not hold messages, is an error with codes.Internal that says at which
// byte.
func (a *Annotator) AppendInfo(streaming bool, resp []byte) ([]byte, error) {
	if len(a.info) == 0 {
		return resp, nil
	}
	if streaming {
		return a.annotateElement(resp)
	}
	return a.annotateReply(resp)
}

// BuildError returns an answer that holds nothing but the source and err: one
// element with streaming, a reply with one element without.
//
// The status has the code, message and details of a gRPC status error, and for
// errors of package context Canceled or DeadlineExceeded; any other error is
// Unknown. Bytes that are not UTF-8 become U+FFFD, as otherwise one backend's
// odd message would make the merged answer of all undecodable.
//
// The result is nil, nil if the layout has no field for errors, or err is nil.
func (a *Annotator) BuildError(streaming bool, err error) ([]byte, error) {
	hasPlace := a.layout.Error != 0 || a.layout.Status != 0
	if err == nil || !hasPlace {
		return nil, nil
	}
	md := append([]byte(nil), a.hostname...)
	if a.layout.Error != 0 {
		// An empty string is the default and is not written.
		if text := validUTF8(err.Error()); text != "" {
			md = protowire.AppendTag(md, a.layout.Error, protowire.BytesType)
			md = protowire.AppendString(md, text)
		}
	}
	if a.layout.Status != 0 {
		md = appendMessage(md, a.layout.Status, marshalStatus(err))
	}
	element := appendMessage(nil, a.layout.Metadata, md)
	if streaming {
		return element, nil
	}
	return appendMessage(nil, a.layout.Element, element), nil
}

// marshalStatus returns err as an encoded google.rpc.Status. Details that
// protobuf cannot encode are left out rather than the whole error with them.
func marshalStatus(err error) []byte {
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	p := st.Proto() // a copy
	p.Message = validUTF8(p.Message)
	b, merr := proto.Marshal(p)
	if merr != nil {
		p.Details = nil
		b, _ = proto.Marshal(p) // cannot fail: an integer and a valid string
	}
	return b
}

// validUTF8 replaces what protobuf does not allow in a string.
func validUTF8(s string) string {
	return strings.ToValidUTF8(s, string(utf8.RuneError))
}
