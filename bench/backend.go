// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// Services by which the proxies tell calls for one backend from calls for all.
// Every backend serves both alike.
const (
	serviceOne = "/bench.One/"
	serviceAll = "/bench.All/"
)

// StartBackend serves the methods of [Workloads] on a loopback port until the
// returned function is called.
func StartBackend() (addr string, stop func(), err error) {
	s := grpc.NewServer(grpc.ForceServerCodecV2(codec{}), grpc.UnknownServiceHandler(serveBackend), grpc.WaitForHandlers(true))
	return serve(s)
}

// serve runs s on a loopback port until the returned function is called.
func serve(s *grpc.Server) (addr string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	served := make(chan struct{})
	go func() { // ends with s.Stop
		defer close(served)
		_ = s.Serve(l)
	}()
	return l.Addr().String(), func() { s.Stop(); <-served }, nil
}

// Dial returns a connection for calls of [Workloads].
func Dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})))
}

func serveBackend(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	switch method := path.Base(full); method {
	case "Echo":
		return serveEcho(stream)
	case "Pull":
		return servePull(stream)
	case "Upload":
		return serveUpload(stream)
	default:
		return status.Errorf(codes.Unimplemented, "bench: no method %s", full)
	}
}

// serveEcho answers every message with itself, until the client half-closes.
func serveEcho(stream grpc.ServerStream) error {
	var m message
	defer m.free()
	for {
		if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(&m); err != nil {
			return err
		}
	}
}

// servePull answers one message with as many of the same as its first four
// bytes say.
func servePull(stream grpc.ServerStream) error {
	var m message
	defer m.free()
	if err := stream.RecvMsg(&m); err != nil {
		return err
	}
	for range binary.BigEndian.Uint32(m.data.Materialize()) {
		if err := stream.SendMsg(&m); err != nil {
			return err
		}
	}
	return nil
}

// serveUpload answers a stream with the number and the size of its messages.
func serveUpload(stream grpc.ServerStream) error {
	var m message
	defer m.free()
	var count, size int
	for {
		if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
			return stream.SendMsg(newMessage(uploadAnswer(count, size)))
		} else if err != nil {
			return err
		}
		count++
		size += m.data.Len()
	}
}

// uploadAnswer is the answer to an upload of count messages, size bytes in all.
func uploadAnswer(count, size int) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(count))
	return binary.BigEndian.AppendUint64(b, uint64(size))
}
