// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"testing"

	_ "google.golang.org/genproto/googleapis/rpc/status" // registers google/rpc/status.proto
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// api is an API in one of the layouts, as its own clients would compile it.
type api struct {
	name     string
	layout   Layout
	reply    protoreflect.MessageDescriptor
	element  protoreflect.MessageDescriptor
	elements protoreflect.Name // the repeated field of reply
	errText  protoreflect.Name // the error field of the metadata
}

// testserviceFile has the names and numbers of the ancestor's test.proto, and
// fields around them that a splice has to leave alone.
const testserviceFile = `
name: "testservice.proto" package: "testservice" syntax: "proto3"
message_type { name: "Metadata"
  field { name: "hostname" number: 99 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "upstream_error" number: 100 type: TYPE_STRING label: LABEL_OPTIONAL }
}
message_type { name: "Element"
  field { name: "metadata" number: 99 type: TYPE_MESSAGE type_name: ".testservice.Metadata" label: LABEL_OPTIONAL }
  field { name: "value" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "counter" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "server" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "children" number: 4 type: TYPE_MESSAGE type_name: ".testservice.Element" label: LABEL_REPEATED }
  field { name: "ratio" number: 536870911 type: TYPE_DOUBLE label: LABEL_OPTIONAL }
}
message_type { name: "Reply"
  field { name: "response" number: 1 type: TYPE_MESSAGE type_name: ".testservice.Element" label: LABEL_REPEATED }
  field { name: "value" number: 200 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "counter" number: 201 type: TYPE_FIXED32 label: LABEL_OPTIONAL }
}`

const talosFile = `
name: "talos.proto" package: "talos" syntax: "proto3" dependency: "google/rpc/status.proto"
message_type { name: "Metadata"
  field { name: "hostname" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "error" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "status" number: 3 type: TYPE_MESSAGE type_name: ".google.rpc.Status" label: LABEL_OPTIONAL }
}
message_type { name: "Element"
  field { name: "metadata" number: 1 type: TYPE_MESSAGE type_name: ".talos.Metadata" label: LABEL_OPTIONAL }
  field { name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "counter" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "children" number: 4 type: TYPE_MESSAGE type_name: ".talos.Element" label: LABEL_REPEATED }
}
message_type { name: "Reply"
  field { name: "messages" number: 1 type: TYPE_MESSAGE type_name: ".talos.Element" label: LABEL_REPEATED }
  field { name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
}`

// apis returns the APIs that the named layouts must fit.
func apis(t testing.TB) []api {
	return []api{
		newAPI(t, "testservice", testserviceFile, TestserviceLayout(), "response", "upstream_error"),
		newAPI(t, "talos", talosFile, TalosLayout(), "messages", "error"),
	}
}

func newAPI(t testing.TB, name, text string, l Layout, elements, errText protoreflect.Name) api {
	t.Helper()
	fdp := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(text), fdp); err != nil {
		t.Fatal(err)
	}
	fd, err := protodesc.NewFile(fdp, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	ms := fd.Messages()
	return api{name, l, ms.ByName("Reply"), ms.ByName("Element"), elements, errText}
}

// decode returns answer as the API's client would see it: with streaming an
// element, without a reply.
func (a api) decode(t testing.TB, streaming bool, answer []byte) *dynamicpb.Message {
	t.Helper()
	m := dynamicpb.NewMessage(a.reply)
	if streaming {
		m = dynamicpb.NewMessage(a.element)
	}
	if err := proto.Unmarshal(answer, m); err != nil {
		t.Fatalf("a client cannot decode the answer: %v\n%x", err, answer)
	}
	if n := len(m.GetUnknown()); n > 0 {
		t.Fatalf("%d bytes of the answer are unknown to a client: %x", n, m.GetUnknown())
	}
	return m
}

// elementsOf returns the list of elements of a reply.
func (a api) elementsOf(reply protoreflect.Message) protoreflect.List {
	return reply.Mutable(a.reply.Fields().ByName(a.elements)).List()
}

// metadataOf returns the metadata of an element, adding it if need be.
func (a api) metadataOf(element protoreflect.Message) protoreflect.Message {
	return element.Mutable(a.element.Fields().ByName("metadata")).Message()
}

// get returns the named field of m as text.
func get(m protoreflect.Message, name protoreflect.Name) string {
	return m.Get(m.Descriptor().Fields().ByName(name)).String()
}

// set sets the named field of m.
func set(m protoreflect.Message, name protoreflect.Name, v any) {
	m.Set(m.Descriptor().Fields().ByName(name), protoreflect.ValueOf(v))
}

func mustNew(t testing.TB, l Layout, name string) *Annotator {
	t.Helper()
	a, err := New(l, name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
