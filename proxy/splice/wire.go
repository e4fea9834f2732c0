// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// annotateElement returns message with the info behind it, in place if there
// is room.
func (a *Annotator) annotateElement(message []byte) ([]byte, error) {
	if err := a.checkElement(message, 0); err != nil {
		return nil, a.refuse(err)
	}
	return append(message, a.info...), nil
}

// annotateReply returns reply with the info at the end of every element.
func (a *Annotator) annotateReply(reply []byte) ([]byte, error) {
	elements, size, err := a.measure(reply)
	if err != nil {
		return nil, a.refuse(err)
	}
	switch {
	case elements > 0:
		return a.rewrite(make([]byte, 0, size), reply), nil
	case a.layout.KeepEmpty:
		return reply, nil
	default:
		out := make([]byte, 0, size+a.elementSize(0))
		return appendMessage(append(out, reply...), a.layout.Element, a.info), nil
	}
}

// measure checks reply and returns the number of its elements and its exact
// size with all of them annotated, so that rewrite need not grow its output.
func (a *Annotator) measure(reply []byte) (elements, size int, err error) {
	for at := 0; at < len(reply); {
		f, err := readField(reply, at)
		if err != nil {
			return 0, 0, err
		}
		at += len(f.raw)
		if f.num != a.layout.Element {
			size += len(f.raw)
			continue
		}
		if f.typ != protowire.BytesType {
			return 0, 0, wrongType(f, at-len(f.raw))
		}
		if err := a.checkElement(reply[:at], at-len(f.body)); err != nil {
			return 0, 0, err
		}
		elements++
		size += a.elementSize(len(f.body))
	}
	return elements, size, nil
}

// rewrite appends to out the reply, which measure has found to be well formed,
// with every element annotated.
func (a *Annotator) rewrite(out, reply []byte) []byte {
	for at := 0; at < len(reply); {
		f, _ := readField(reply, at)
		at += len(f.raw)
		if f.num != a.layout.Element {
			out = append(out, f.raw...)
			continue
		}
		out = protowire.AppendTag(out, f.num, protowire.BytesType)
		out = protowire.AppendVarint(out, uint64(len(f.body)+len(a.info)))
		out = append(out, f.body...)
		out = append(out, a.info...)
	}
	return out
}

// elementSize is the size in a reply of an element with body bytes of its own.
func (a *Annotator) elementSize(body int) int {
	return protowire.SizeTag(a.layout.Element) + protowire.SizeBytes(body+len(a.info))
}

// refuse returns the error of AppendInfo for an answer that has the flaw.
func (a *Annotator) refuse(flaw error) error {
	return status.Errorf(codes.Internal, "splice: answer of %q does not fit the layout: %v", a.name, flaw)
}

// checkElement reports why the element that fills answer from index at on
// cannot take the info. Info behind bytes that are no message would reach the
// caller as nonsense, or vanish in a field that is cut short; behind a field of
// the metadata's number but another type it would be lost or replace the value.
func (a *Annotator) checkElement(answer []byte, at int) error {
	for at < len(answer) {
		f, err := readField(answer, at)
		if err != nil {
			return err
		}
		at += len(f.raw)
		if f.num != a.layout.Metadata {
			continue
		}
		if f.typ != protowire.BytesType {
			return wrongType(f, at-len(f.raw))
		}
		if err := checkMessage(answer[:at], at-len(f.body)); err != nil {
			return err
		}
	}
	return nil
}

// checkMessage reports a flaw in the top-level fields of the message that
// fills answer from index at on.
func checkMessage(answer []byte, at int) error {
	for at < len(answer) {
		f, err := readField(answer, at)
		if err != nil {
			return err
		}
		at += len(f.raw)
	}
	return nil
}

// field is one field of an encoded message; both slices point into it.
type field struct {
	num  protowire.Number
	typ  protowire.Type
	raw  []byte // tag and value
	body []byte // the value without its length, for protowire.BytesType only
}

// readField reads the field at index at of answer, which is less than its length.
func readField(answer []byte, at int) (field, error) {
	b := answer[at:]
	num, typ, head := protowire.ConsumeTag(b)
	if head < 0 {
		return field{}, wireError("tag", at, head)
	}
	if typ == protowire.BytesType {
		body, n := protowire.ConsumeBytes(b[head:])
		if n < 0 {
			return field{}, wireError("value", at+head, n)
		}
		return field{num: num, typ: typ, raw: b[:head+n], body: body}, nil
	}
	n := protowire.ConsumeFieldValue(num, typ, b[head:])
	if n < 0 {
		return field{}, wireError("value", at+head, n)
	}
	return field{num: num, typ: typ, raw: b[:head+n]}, nil
}

// wireError returns the error for a negative length n from protowire. The
// texts of protowire are not used: they are made to differ from build to build.
func wireError(part string, at, n int) error {
	if errors.Is(protowire.ParseError(n), io.ErrUnexpectedEOF) {
		return fmt.Errorf("the field %s at byte %d is cut short", part, at)
	}
	return fmt.Errorf("the field %s at byte %d is not protobuf", part, at)
}

// wrongType returns the error for the field f at index at that is no message.
func wrongType(f field, at int) error {
	return fmt.Errorf("field %d at byte %d has wire type %d, expected a message of wire type %d",
		f.num, at, f.typ, protowire.BytesType)
}

// appendMessage appends to b the field num with an encoded message as value.
func appendMessage(b []byte, num protowire.Number, message []byte) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendBytes(b, message)
}
