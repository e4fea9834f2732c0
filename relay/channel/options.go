// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel

import (
	"math"
	"reflect"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// callInfo is what the options of a call say.
type callInfo struct {
	codec            encoding.CodecV2
	subtype          string // of the content-type
	compressor       encoding.Compressor
	encoding         string // grpc-encoding of the requests
	maxSend, maxRecv int
	keep             int // octets of the request to keep for trying again
	authority        string
	creds            credentials.PerRPCCredentials
	wait             bool
	after            []grpc.CallOption // those with something to do at the end
}

// Defaults of grpc-go.
const (
	defaultMaxRecv = 4 << 20
	defaultMaxSend = math.MaxInt32
)

// maxKeep is how many octets of the request are kept, in case that an upstream provably does nothing about it.
const maxKeep = 64 << 10

// apply takes the options in turn; later ones prevail. What it does not know is an error, so that nothing is dropped silently.
func (i *callInfo) apply(opts []grpc.CallOption) error {
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.ForceCodecV2CallOption:
			i.codec = o.CodecV2
		case grpc.ForceCodecCallOption:
			i.codec = codecV1{o.Codec}
		case grpc.ContentSubtypeCallOption:
			i.subtype = o.ContentSubtype
		case grpc.MaxRecvMsgSizeCallOption:
			i.maxRecv = o.MaxRecvMsgSize + 1 // 0: not set
		case grpc.MaxSendMsgSizeCallOption:
			i.maxSend = o.MaxSendMsgSize + 1
		case grpc.MaxRetryRPCBufferSizeCallOption:
			i.keep = o.MaxRetryRPCBufferSize + 1
		case grpc.AuthorityOverrideCallOption:
			i.authority = o.Authority
		case grpc.PerRPCCredsCallOption:
			i.creds = o.Creds
		case grpc.CompressorCallOption:
			i.encoding = o.CompressorType
		case grpc.FailFastCallOption:
			i.wait = !o.FailFast
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.OnFinishCallOption:
			i.after = append(i.after, o)
		case grpc.StaticMethodCallOption, grpc.EmptyCallOption, nil:
		default:
			if err := unknownOption(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// unknownOption accepts the options of others: they embed one of grpc-go's, mostly [grpc.EmptyCallOption], to carry something to
// interceptors.
func unknownOption(o grpc.CallOption) error {
	t := reflect.TypeOf(o)
	if t.Kind() == reflect.Struct && t.PkgPath() != "google.golang.org/grpc" {
		if _, ok := t.FieldByName("EmptyCallOption"); ok {
			return nil
		}
	}
	return status.Errorf(codes.Internal, "channel: call option %T is not supported", o)
}

// complete fills in what the options left open.
func (i *callInfo) complete() error {
	i.maxRecv = orDefault(i.maxRecv, defaultMaxRecv)
	i.maxSend = orDefault(i.maxSend, defaultMaxSend)
	i.keep = min(orDefault(i.keep, maxKeep), maxKeep)
	switch {
	case i.codec != nil && i.subtype == "":
		i.subtype = strings.ToLower(i.codec.Name())
	case i.codec != nil:
	case i.subtype == "":
		i.codec = registeredCodec(proto.Name)
	default:
		i.codec = registeredCodec(i.subtype)
	}
	if i.codec == nil {
		return status.Errorf(codes.Internal, "no codec registered for content-subtype %s", i.subtype)
	}
	if i.encoding != "" && i.encoding != encoding.Identity {
		if i.compressor = encoding.GetCompressor(i.encoding); i.compressor == nil {
			return status.Errorf(codes.Internal, "grpc: Compressor is not installed for requested grpc-encoding %q", i.encoding)
		}
	}
	return nil
}

// orDefault returns what apply noted of a limit. The sum may have overflown: there is no larger limit.
func orDefault(plusOne, otherwise int) int {
	switch plusOne {
	case 0:
		return otherwise
	case math.MinInt:
		return math.MaxInt
	}
	return plusOne - 1
}

// finished calls the functions that asked to be told of the end.
func (i *callInfo) finished(err error) {
	for _, o := range i.after {
		if o, ok := o.(grpc.OnFinishCallOption); ok {
			o.OnFinish(err)
		}
	}
}

// registeredCodec returns the codec of that name, or nil.
func registeredCodec(name string) encoding.CodecV2 {
	if c := encoding.GetCodecV2(name); c != nil {
		return c
	}
	if c := encoding.GetCodec(name); c != nil {
		return codecV1{c}
	}
	return nil
}

// codecV1 makes a codec of the older interface one of the newer.
type codecV1 struct{ encoding.Codec }

func (c codecV1) Marshal(v any) (mem.BufferSlice, error) {
	p, err := c.Codec.Marshal(v)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(p)}, nil
}

func (c codecV1) Unmarshal(data mem.BufferSlice, v any) error {
	return c.Codec.Unmarshal(data.Materialize(), v)
}
