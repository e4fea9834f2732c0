// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
)

// FanOut is the number of backends that a call to all of them goes to.
const FanOut = 5

// Workload is a kind of call.
type Workload struct {
	Name string

	// Targets is how many backends one call goes to: 1 or [FanOut].
	Targets int

	// Concurrency is how many calls run at once when CPU per call is measured.
	Concurrency int

	// Target is the most that a call may cost package proxy, as a part of what
	// it costs the ancestor in CPU. 0: none is promised.
	Target float64

	all  bool // also a single backend as one of many
	call func(ctx context.Context, conn grpc.ClientConnInterface, service string, copies int) error
}

// Workloads returns every kind of call that is measured.
func Workloads() []Workload {
	return []Workload{
		{Name: "unary-64B", Targets: 1, Concurrency: 1, Target: 0.75, call: echo(64)},
		{Name: "unary-64B-x32", Targets: 1, Concurrency: 32, Target: 0.75, call: echo(64)},
		{Name: "unary-64KiB", Targets: 1, Concurrency: 4, Target: 0.75, call: echo(64 << 10)},
		{Name: "unary-1MiB", Targets: 1, Concurrency: 2, Target: 0.75, call: echo(1 << 20)},
		{Name: "server-stream-1000x1KiB", Targets: 1, Concurrency: 1, call: pull(1000, 1<<10)},
		{Name: "bidi-100-round-trips", Targets: 1, Concurrency: 1, call: pingPong(100, 64)},
		{Name: "upload-1000x1KiB-to-5", Targets: FanOut, Concurrency: 1, Target: 0.4, call: upload(1000, 1<<10)},
		{Name: "unary-64B-to-5", Targets: FanOut, Concurrency: 1, Target: 0.75, call: echo(64)},
		{Name: "unary-64B-to-5-x32", Targets: FanOut, Concurrency: 32, Target: 0.75, call: echo(64)},
	}
}

// FanOuts returns the kinds of call to n backends at once that are measured.
func FanOuts(n int) []Workload {
	name := func(what string) string { return fmt.Sprintf("%s-to-%d", what, n) }
	return []Workload{
		{Name: name("unary-64B"), Targets: n, Concurrency: 1, all: true, call: echo(64)},
		{Name: name("unary-64B-x32"), Targets: n, Concurrency: 32, all: true, call: echo(64)},
		{Name: name("upload-1000x1KiB"), Targets: n, Concurrency: 1, all: true, call: upload(1000, 1<<10)},
	}
}

// Do makes one call through a proxy and checks the answer.
func (w Workload) Do(ctx context.Context, proxy grpc.ClientConnInterface) error {
	service := serviceOne
	if w.Targets > 1 || w.all {
		service = serviceAll
	}
	if err := w.call(ctx, proxy, service, w.Targets); err != nil {
		return fmt.Errorf("%s: %w", w.Name, err)
	}
	return nil
}

// DoDirect makes the call to each of the backends itself, one after another.
func (w Workload) DoDirect(ctx context.Context, backends []*grpc.ClientConn) error {
	for _, conn := range backends[:w.Targets] {
		if err := w.call(ctx, conn, serviceOne, 1); err != nil {
			return fmt.Errorf("%s, direct: %w", w.Name, err)
		}
	}
	return nil
}

// pattern returns bytes in which a piece that is lost or moved would show.
func pattern(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// echo is a unary call that sends size bytes and gets them back.
func echo(size int) func(context.Context, grpc.ClientConnInterface, string, int) error {
	payload := pattern(size)
	request := newMessage(payload)
	return func(ctx context.Context, conn grpc.ClientConnInterface, service string, copies int) error {
		var answer message
		defer answer.free()
		if err := conn.Invoke(ctx, service+"Echo", request, &answer); err != nil {
			return err
		}
		return answer.check(payload, copies)
	}
}

// pull is a call whose answer is a stream of n messages.
func pull(n, size int) func(context.Context, grpc.ClientConnInterface, string, int) error {
	payload := pattern(size)
	binary.BigEndian.PutUint32(payload, uint32(n))
	request := newMessage(payload)
	return func(ctx context.Context, conn grpc.ClientConnInterface, service string, _ int) error {
		stream, err := open(ctx, conn, service+"Pull")
		if err != nil {
			return err
		}
		if err := send(stream, request); err != nil {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		var answer message
		defer answer.free()
		for range n {
			if err := stream.RecvMsg(&answer); err != nil {
				return err
			}
			if err := answer.check(payload, 1); err != nil {
				return err
			}
		}
		return expectEnd(stream, &answer)
	}
}

// pingPong is a call of n messages, each sent after the answer to the one before.
func pingPong(n, size int) func(context.Context, grpc.ClientConnInterface, string, int) error {
	payload := pattern(size)
	request := newMessage(payload)
	return func(ctx context.Context, conn grpc.ClientConnInterface, service string, _ int) error {
		stream, err := open(ctx, conn, service+"Echo")
		if err != nil {
			return err
		}
		var answer message
		defer answer.free()
		for range n {
			if err := send(stream, request); err != nil {
				return err
			}
			if err := stream.RecvMsg(&answer); err != nil {
				return err
			}
			if err := answer.check(payload, 1); err != nil {
				return err
			}
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		return expectEnd(stream, &answer)
	}
}

// upload is a call with a stream of n messages and one answer.
func upload(n, size int) func(context.Context, grpc.ClientConnInterface, string, int) error {
	request := newMessage(pattern(size))
	want := uploadAnswer(n, n*size)
	return func(ctx context.Context, conn grpc.ClientConnInterface, service string, copies int) error {
		stream, err := open(ctx, conn, service+"Upload")
		if err != nil {
			return err
		}
		for range n {
			if err := send(stream, request); err != nil {
				return err
			}
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		var answer message
		defer answer.free()
		if err := stream.RecvMsg(&answer); err != nil {
			return err
		}
		if err := answer.check(want, copies); err != nil {
			return err
		}
		return expectEnd(stream, &answer)
	}
}

func open(ctx context.Context, conn grpc.ClientConnInterface, method string) (grpc.ClientStream, error) {
	return conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
}

// send sends one message. On a stream that has ended, it returns the status.
func send(stream grpc.ClientStream, m *message) error {
	err := stream.SendMsg(m)
	if errors.Is(err, io.EOF) {
		return stream.RecvMsg(new(message))
	}
	return err
}

// expectEnd checks that the answer is over, and that the call ended well.
func expectEnd(stream grpc.ClientStream, m *message) error {
	switch err := stream.RecvMsg(m); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	default:
		return errors.New("a message too many")
	}
}
