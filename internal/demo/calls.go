// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// caller makes calls and counts them. It is used by one goroutine.
type caller struct {
	echo  samplepb.EchoServiceClient
	fleet samplepb.FleetServiceClient
	calls int
}

// oneToOne makes a call of each kind, and one that fails.
func oneToOne(ctx context.Context, p *printer, c *caller) error {
	steps := []struct {
		kind, call string
		run        func(context.Context) (backend, answer string, err error)
	}{
		{"unary", `Echo "hello"`, func(ctx context.Context) (string, string, error) { return c.unary(ctx, "hello") }},
		{"unary", `Echo "hello again"`, func(ctx context.Context) (string, string, error) { return c.unary(ctx, "hello again") }},
		{"unary", `Echo "and again"`, func(ctx context.Context) (string, string, error) { return c.unary(ctx, "and again") }},
		{"server stream", `Expand "tick", 3 times`, c.serverStream},
		{"client stream", `Collect "a", "b", "c"`, c.clientStream},
		{"bidi stream", `Chat "ping", then "pong"`, c.bidiStream},
		{"unary that fails", `Echo, asked for NotFound`, c.failing},
	}

	p.printf("\nONE TO ONE: each call goes to the next backend in turn.\n\n")
	t := p.table("kind of call", "call to EchoService", "backend", "answer")
	for _, step := range steps {
		c.calls++
		backend, answer, err := step.run(ctx)
		if err != nil {
			return fmt.Errorf("demo: %s: %w", step.call, err)
		}
		t.row(step.kind, step.call, backend, answer)
	}
	t.end()

	return nil
}

// unary and its like make one call and return who answered it, and what, in the
// words to print. They return an error for whatever is not as it should be.
func (c *caller) unary(ctx context.Context, text string) (backend, answer string, err error) {
	resp, err := c.echo.Echo(ctx, &samplepb.EchoRequest{Text: text})

	return resp.GetBackend(), quote(resp.GetText()), err
}

func (c *caller) serverStream(ctx context.Context) (backend, answer string, err error) {
	stream, err := c.echo.Expand(ctx, &samplepb.ExpandRequest{Text: "tick", Count: 3})
	if err != nil {
		return "", "", err
	}
	answers, err := receive(stream, 3)
	if err != nil {
		return "", "", err
	}

	return answers[0].GetBackend(), quote(texts(answers)...), nil
}

func (c *caller) clientStream(ctx context.Context) (backend, answer string, err error) {
	stream, err := c.echo.Collect(ctx)
	if err != nil {
		return "", "", err
	}
	for _, text := range []string{"a", "b", "c"} {
		if err := stream.Send(&samplepb.EchoRequest{Text: text}); err != nil {
			return "", "", err
		}
	}
	resp, err := stream.CloseAndRecv()

	return resp.GetBackend(), quote(resp.GetTexts()...), err
}

// bidiStream waits for each answer before it sends the next request: the two
// directions are open at once, and nothing on the way holds messages back.
func (c *caller) bidiStream(ctx context.Context) (backend, answer string, err error) {
	stream, err := c.echo.Chat(ctx)
	if err != nil {
		return "", "", err
	}
	var answers []*samplepb.EchoResponse
	for _, text := range []string{"ping", "pong"} {
		if err := stream.Send(&samplepb.EchoRequest{Text: text}); err != nil {
			return "", "", err
		}
		resp, err := stream.Recv()
		if err != nil {
			return "", "", err
		}
		answers = append(answers, resp)
	}
	if err := stream.CloseSend(); err != nil {
		return "", "", err
	}
	_, err = receive(stream, 0) // nothing but the end

	return answers[0].GetBackend(), quote(texts(answers)...), err
}

// failing shows the backend's own status, and so treats OK as the error.
func (c *caller) failing(ctx context.Context) (backend, answer string, err error) {
	detail, err := anypb.New(&errdetails.ErrorInfo{Reason: "NO_SUCH_THING", Domain: "demo"})
	if err != nil {
		return "", "", err
	}

	var header metadata.MD
	_, err = c.echo.Echo(ctx, &samplepb.EchoRequest{Fail: &samplepb.Status{
		Code: int32(codes.NotFound), Message: "no such thing", Details: []*anypb.Any{detail},
	}}, grpc.Header(&header))
	got := status.Convert(err)
	if got.Code() != codes.NotFound {
		return "", "", fmt.Errorf("the call was to fail with NotFound: %w", err)
	}

	answer = fmt.Sprintf("%v: %s", got.Code(), got.Message())
	for _, detail := range got.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			answer += fmt.Sprintf(" (details: %s)", info.GetReason())
		}
	}

	return strings.Join(header.Get(sample.BackendHeader), ","), answer, nil
}

// oneToMany makes the same call twice, the second time with a backend failing.
func oneToMany(ctx context.Context, p *printer, c *caller) error {
	p.printf("\nONE TO MANY: one call goes to all backends, and their answers come back as one.\n")

	for _, step := range []struct{ title, failOn string }{
		{`Describe`, ""},
		{`Describe, with backend "two" asked to fail: its error takes its place`, "two"},
	} {
		c.calls++
		resp, err := c.fleet.Describe(ctx, &samplepb.DescribeRequest{FailOn: step.failOn})
		if err != nil {
			return fmt.Errorf("demo: %s: %w", step.title, err)
		}

		p.printf("\n  unary call to FleetService: %s\n\n", step.title)
		t := p.table("answer from", "backend", "says")
		for _, node := range resp.GetNodes() {
			t.row(node.GetMetadata().GetHostname(), cmp.Or(node.GetBackend(), "-"), describe(node))
		}
		t.end()
	}

	return nil
}

// describe returns what a node says of itself, or the error in its place.
func describe(node *samplepb.Node) string {
	if failure := node.GetMetadata().GetStatus(); failure != nil {
		return fmt.Sprintf("%v: %s", codes.Code(failure.GetCode()), failure.GetMessage())
	}

	return fmt.Sprintf("I have served %d calls of EchoService", node.GetStarted())
}

// receive receives n answers and the good end of a stream.
func receive(stream interface {
	Recv() (*samplepb.EchoResponse, error)
}, n int,
) ([]*samplepb.EchoResponse, error) {
	var answers []*samplepb.EchoResponse
	for {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && len(answers) == n:
			return answers, nil
		case errors.Is(err, io.EOF) || err == nil && len(answers) == n:
			return nil, fmt.Errorf("expected %d answers, not %d", n, len(answers))
		case err != nil:
			return nil, err
		}
		answers = append(answers, resp)
	}
}
