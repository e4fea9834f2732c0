// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// The splice of the encoded message must be what setting the fields of the
// decoded message and encoding it again would give.
func TestAppendInfoAgainstDecodedMessages(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, api := range apis(t) {
		t.Run(api.name, func(t *testing.T) {
			a := mustNew(t, api.layout, "server-1")
			for range 2000 {
				reply := dynamicpb.NewMessage(api.reply)
				fill(rnd, reply, 0)
				compare(t, api, a, false, reply)
				element := dynamicpb.NewMessage(api.element)
				fill(rnd, element, 0)
				compare(t, api, a, true, element)
			}
		})
	}
}

// compare checks AppendInfo of m against the same change made by reflection.
func compare(t *testing.T, api api, a *Annotator, streaming bool, m *dynamicpb.Message) {
	t.Helper()
	got, err := a.AppendInfo(streaming, mustMarshal(t, m))
	if err != nil {
		t.Fatalf("streaming %v: %v\nanswer %v", streaming, err, m)
	}
	annotateDecoded(api, streaming, m)
	if d := api.decode(t, streaming, got); !proto.Equal(d, m) {
		t.Fatalf("streaming %v:\ngot  %v\nwant %v", streaming, d, m)
	}
}

// annotateDecoded sets by reflection what AppendInfo splices.
func annotateDecoded(api api, streaming bool, m *dynamicpb.Message) {
	if streaming {
		set(api.metadataOf(m), "hostname", "server-1")
		return
	}
	list := api.elementsOf(m)
	if list.Len() == 0 {
		list.AppendMutable()
	}
	for i := range list.Len() {
		set(api.metadataOf(list.Get(i).Message()), "hostname", "server-1")
	}
}

// fill sets fields of m at random, to a depth of three messages.
func fill(rnd *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if rnd.IntN(3) == 0 || depth > 3 || f.Message() != nil && f.Message().ParentFile() != m.Descriptor().ParentFile() {
			continue
		}
		switch {
		case f.IsList():
			for range rnd.IntN(4) {
				fill(rnd, m.Mutable(f).List().AppendMutable().Message(), depth+1)
			}
		case f.Message() != nil:
			fill(rnd, m.Mutable(f).Message(), depth+1)
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOf(strings.Repeat("é", rnd.IntN(100))))
		case f.Kind() == protoreflect.DoubleKind:
			m.Set(f, protoreflect.ValueOf(rnd.NormFloat64()))
		case f.Kind() == protoreflect.Fixed32Kind:
			m.Set(f, protoreflect.ValueOf(rnd.Uint32()))
		default:
			m.Set(f, protoreflect.ValueOf(rnd.Int32()-1<<30))
		}
	}
}

// Any bytes either are refused or come back with nothing but the info added,
// still readable by a decoder that could read them before.
func FuzzAppendInfo(f *testing.F) {
	for _, seed := range []string{
		"", msg(1), msg(1, msg(1, "v")), msg(1) + msg(1, msg(99, msg(99, "x"))), varint(1, 1), "\x0b\x0c", "\x0a\x05abc",
		msg(1, "hello"), "\x0a\x80\x00", "\x8a\x80\x00\x00", strings.Repeat("\x13", 100) + strings.Repeat("\x14", 100),
	} {
		f.Add(false, []byte(seed))
		f.Add(true, []byte(seed))
	}
	api := apis(f)[0]
	a := mustNew(f, api.layout, "server-1")
	f.Fuzz(func(t *testing.T, streaming bool, resp []byte) {
		before := string(resp)
		got, err := a.AppendInfo(streaming, resp)
		if string(resp) != before {
			t.Fatal("the answer passed in was changed")
		}
		m := dynamicpb.NewMessage(api.reply)
		if streaming {
			m = dynamicpb.NewMessage(api.element)
		}
		readable := proto.Unmarshal(resp, m) == nil
		switch {
		case err != nil:
			if status.Code(err) != codes.Internal {
				t.Fatalf("code %v, want Internal", status.Code(err))
			}
			return
		case !streaming:
			checkSpliced(t, a, resp, got)
		case string(got) != before+string(a.info):
			t.Fatalf("got %x\nwant %x and %x", got, resp, a.info)
		}
		if !readable {
			return
		}
		annotateDecoded(api, streaming, m)
		d := dynamicpb.NewMessage(m.Descriptor())
		if err := proto.Unmarshal(got, d); err != nil {
			t.Fatalf("no longer readable: %v", err)
		}
		if !proto.Equal(d, m) && !hasNaN(m) {
			t.Fatalf("got  %v\nwant %v", d, m)
		}
	})
}

// checkSpliced walks a reply and its splice side by side: elements have gained
// the info, and the rest is as it was.
func checkSpliced(t *testing.T, a *Annotator, before, after []byte) {
	elements := 0
	for len(before) > 0 {
		was, n := consume(t, before)
		is, k := consume(t, after)
		if was.num == a.layout.Element {
			elements++
			was.value += string(a.info)
		}
		if is != was {
			t.Fatalf("got field %+v\nwant %+v", is, was)
		}
		before, after = before[n:], after[k:]
	}
	if elements == 0 {
		if want := appendMessage(nil, a.layout.Element, a.info); string(after) != string(want) {
			t.Fatalf("the reply ends in %x, want %x", after, want)
		}
	} else if len(after) > 0 {
		t.Fatalf("%d bytes too many", len(after))
	}
}

// plainField is a field without what may differ in its encoding.
type plainField struct {
	num   protowire.Number
	typ   protowire.Type
	value string
}

// consume reads the first field of b and returns its size, too.
func consume(t *testing.T, b []byte) (plainField, int) {
	t.Helper()
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		t.Fatalf("no tag in %x", b)
	}
	k := protowire.ConsumeFieldValue(num, typ, b[n:])
	if k < 0 {
		t.Fatalf("no value in %x", b)
	}
	value := b[n : n+k]
	if typ == protowire.BytesType {
		value, _ = protowire.ConsumeBytes(value)
	}
	return plainField{num, typ, string(value)}, n + k
}

// hasNaN reports whether a message cannot equal itself.
func hasNaN(m proto.Message) bool { return !proto.Equal(m, proto.Clone(m)) }

// Any error text gives an answer that a client can decode.
func FuzzBuildError(f *testing.F) {
	f.Add("boom", uint32(2))
	f.Add("a\xffb", uint32(codes.Unavailable))
	f.Add("", uint32(99))
	api := apis(f)[1]
	a := mustNew(f, api.layout, "server-1")
	f.Fuzz(func(t *testing.T, text string, code uint32) {
		for _, cause := range []error{errors.New(text), status.Error(codes.Code(code), text)} {
			if cause == nil {
				continue // a status of code OK is no error
			}
			b, err := a.BuildError(false, cause)
			if err != nil {
				t.Fatal(err)
			}
			list := api.elementsOf(api.decode(t, false, b))
			if list.Len() != 1 {
				t.Fatalf("%d elements, want 1", list.Len())
			}
			md := api.metadataOf(list.Get(0).Message())
			if got, want := get(md, "error"), validUTF8(cause.Error()); got != want {
				t.Fatalf("error is %q, want %q", got, want)
			}
		}
	})
}
