// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"math"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/fanout"
)

// outgoing makes the context and the options of an upstream stream from those that the backend gave. It owns md, the
// outgoing metadata, which may be nil; differs says that ctx has other metadata.
//
// The proxy's options come after the connection's default call options and so prevail over them: the codec must be the
// proxy's, the content-subtype the caller's, and a hop adds no limit to the size of messages. The backend's come last.
func (c *call) outgoing(ctx context.Context, md metadata.MD, differs bool, extra []grpc.CallOption) (context.Context, []grpc.CallOption) {
	before := len(md)
	dropHopKeys(md)

	opts := c.options

	if f := c.handler.options.forwarded; f != nil {
		if md == nil {
			md = metadata.MD{}
		}

		f.apply(c.stream.Context(), md)

		extra = f.callOptions(c.stream.Context(), extra)
		differs = true
	}

	if c.hide != "" {
		delete(md, c.hide)
	}

	if c.via != "" {
		if md == nil {
			md = metadata.MD{}
		}

		md[fanout.ViaKey] = []string{c.via}
		differs = true
	}

	if differs || len(md) != before {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}

	if len(extra) > 0 {
		opts = append(opts[:len(opts):len(opts)], extra...)
	}

	return ctx, opts
}

// contentSubtype returns what follows "application/grpc+" in the content-type of the call that ctx belongs to, in
// lower case, and "" for plain "application/grpc".
func contentSubtype(ctx context.Context) string {
	ct := metadata.ValueFromIncomingContext(ctx, "content-type")
	if len(ct) == 0 {
		return ""
	}

	subtype := strings.TrimPrefix(strings.ToLower(ct[0]), "application/grpc")
	if subtype == "" || (subtype[0] != '+' && subtype[0] != ';') {
		return ""
	}

	return subtype[1:]
}

// The options for the usual content-subtypes are made once. They are not to be appended to.
var (
	plainOptions = makeSubtypeOptions("")
	protoOptions = makeSubtypeOptions(proto.Name)
)

func subtypeOptions(subtype string) []grpc.CallOption {
	switch subtype {
	case "":
		return plainOptions
	case proto.Name:
		return protoOptions
	default:
		return makeSubtypeOptions(subtype)
	}
}

func makeSubtypeOptions(subtype string) []grpc.CallOption {
	// When the content-subtype is empty grpc-go takes the codec's name for it: hence a codec with that name, and
	// hence the option for the empty subtype, which may have to undo a default of the connection's.
	return []grpc.CallOption{
		grpc.ForceCodecV2(&codec{parent: encoding.GetCodecV2(proto.Name), name: subtype}),
		grpc.CallContentSubtype(subtype),
		grpc.MaxCallRecvMsgSize(math.MaxInt),
		grpc.MaxCallSendMsgSize(math.MaxInt),
	}
}
