// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package fanout

import (
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
)

// The field numbers of FanoutMessage.
const (
	fieldTarget  protowire.Number = 1
	fieldPayload protowire.Number = 2
)

// Envelope wraps what one target sends into FanoutMessages. It knows nothing of the
// payload. It is immutable and safe for concurrent use; the zero value names no target.
type Envelope struct {
	name   string
	index  int
	target []byte // the field target, encoded
}

// NewEnvelope returns the envelope of a target.
func NewEnvelope(name string, index int) Envelope {
	p := targetProto(name, index)
	b, _ := proto.Marshal(p) // its text is UTF-8, and nothing else can fail
	field := protowire.AppendTag(nil, fieldTarget, protowire.BytesType)
	return Envelope{p.GetName(), index, protowire.AppendBytes(field, b)}
}

// AppendPrefix appends to b what comes before a payload of n bytes. Prefix and payload
// together are a FanoutMessage, so that the payload need not be copied.
func (e Envelope) AppendPrefix(b []byte, n int) []byte {
	b = append(b, e.target...)
	b = protowire.AppendTag(b, fieldPayload, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(n))
}

// Outcome returns the message that ends the target's part in the call, encoded. The
// outcome is of this envelope's target, whatever its own name and index say. Metadata says
// whether it has header and trailer.
func (e Envelope) Outcome(o Outcome, withMetadata bool) []byte {
	p := o.proto(withMetadata)
	p.Target = nil
	return e.message(&fanoutpb.FanoutMessage{Event: &fanoutpb.FanoutMessage_Outcome{Outcome: p}})
}

// Header returns the message that brings the target's header, encoded.
func (e Envelope) Header(md metadata.MD) []byte {
	h := &fanoutpb.FanoutHeader{Metadata: metadataProto(md)}
	return e.message(&fanoutpb.FanoutMessage{Event: &fanoutpb.FanoutMessage_Header{Header: h}})
}

// message encodes m behind the target. Marshal fails on nothing but text that is no UTF-8, which there is not.
func (e Envelope) message(m *fanoutpb.FanoutMessage) []byte {
	b, _ := proto.MarshalOptions{}.MarshalAppend(append([]byte(nil), e.target...), m)
	return b
}
