// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/proxy"
)

// passOn is a merger that sends each message as it is.
func passOn(context.Context, string, []string) proxy.Merger {
	return func(e proxy.MergeEvent, send func([]byte) error) error {
		if e.Message == nil {
			return nil
		}

		return send(slices.Clone(e.Message))
	}
}

// streamCarriers are the options of calls that send messages on as they come.
var streamCarriers = map[string]proxy.Fanout{
	"concat":   {},
	"order":    {OrderKey: func(m []byte) string { return string(m[:1]) }},
	"envelope": {Envelope: true},
	"merger":   {Merger: passOn},
}

// Messages that are as large as to come in buffers from a pool arrive whole by each carrier. Those are poisoned once freed.
func TestCarriersOfLargeMessages(t *testing.T) {
	letters := func(from byte) []string {
		var messages []string
		for i := range byte(5) {
			messages = append(messages, strings.Repeat(string(from+i), 50_000))
		}

		return messages
	}
	conns := plain(nodes(t, answer(letters('a')...), answer(letters('f')...)))

	for name, o := range streamCarriers {
		for range 5 {
			got, err := call(t, fan(t, conns, proxy.WithStreamedDetector(byName), proxy.WithFanout(o)), streamMethod, "x")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}

			all := strings.Join(got, "")
			for _, m := range slices.Concat(letters('a'), letters('f')) {
				if strings.Count(all, m) != 1 {
					t.Errorf("%s: the message of %.1q is not there whole", name, m)
				}
			}
		}
	}
}

// A message that cannot be sent to the caller ends the call at once, with that reason.
func TestAnswerNotDelivered(t *testing.T) {
	for name, o := range streamCarriers {
		synctest.Test(t, func(t *testing.T) {
			inMemory(t)

			ended := make(chan error, 1)

			// The one that hangs has sent what makes others wait for nothing. Under best effort a target's failure ends nothing.
			o.Policy = fanout.BestEffort()
			conn := fan(t, nodes(t, answer(strings.Repeat("a", 2000)), func(srv any, s grpc.ServerStream) error {
				if err := s.SendMsg(proxy.NewFrame([]byte("b"))); err != nil {
					return err
				}

				return hang(srv, s)
			}), proxy.WithStreamedDetector(byName), proxy.WithFanout(o), grpc.MaxSendMsgSize(1000), intercept(ended))

			_, _, took, err := timed(t, conn, testTimeout, streamMethod)
			if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than max") || took > time.Second {
				t.Errorf("%s: ended with %v after %v", name, err, took)
			}

			wantStatus(t, <-ended, codes.ResourceExhausted, "larger than max")
		})
	}
}

// No further target begins when a call cannot succeed any more and only waits for others to fail.
func TestHedgeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		var begun atomic.Int64

		count := func(h grpc.StreamHandler) grpc.StreamHandler {
			return func(srv any, s grpc.ServerStream) error {
				begun.Add(1)

				return h(srv, s)
			}
		}
		conn := fan(t, plain(allConnected(t, nodes(t, count(fail(codes.Aborted, "no")), count(hang), count(echo)))),
			proxy.WithFanout(proxy.Fanout{Policy: fanout.All(), Hedge: 2, HedgeDelay: 50 * time.Millisecond}))

		_, _, took, err := timed(t, conn, testTimeout, unaryMethod)
		wantStatus(t, err, codes.Aborted, "no")

		if took != 100*time.Millisecond || begun.Load() != 2 {
			t.Errorf("%d targets began, and the call took %v", begun.Load(), took)
		}
	})
}

// A merger gets a message for each that a target sent, empty ones too.
func TestMergerOfEmptyMessages(t *testing.T) {
	count := func(context.Context, string, []string) proxy.Merger {
		n := 0

		return func(e proxy.MergeEvent, send func([]byte) error) error {
			if e.Message != nil {
				n++
			}

			if e.Last {
				return send(fmt.Append(nil, n))
			}

			return nil
		}
	}

	got, err := call(t, fan(t, nodes(t, answer("", ""), answer("")), proxy.WithFanout(proxy.Fanout{Merger: count})), unaryMethod, "x")
	if err != nil || !slices.Equal(got, []string{"3"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

// A report leaves the trailer within what peers take, beside long messages and trailers of targets.
func TestReportFitsIntoTrailer(t *testing.T) {
	handlers := make([]grpc.StreamHandler, 10)
	for i := range handlers {
		handlers[i] = func(srv any, s grpc.ServerStream) error {
			s.SetTrailer(metadata.Pairs("t", strings.Repeat("t", 300)))

			return fail(codes.Aborted, strings.Repeat("long ", 50))(srv, s)
		}
	}

	s := open(t, fan(t, plain(nodes(t, handlers...)), proxy.WithFanout(proxy.Fanout{Policy: fanout.Any(), Summary: true})), unaryMethod)
	send(t, s, "x")
	_ = s.CloseSend()

	_, err := collect(s)
	wantStatus(t, err, codes.Aborted, "long")

	if report, err := fanout.ReadTrailer(s.Trailer()); err != nil || report.GetFailed() != 10 {
		t.Errorf("report %v, %v", report, err)
	}

	size := len(status.Convert(err).Message())

	for key, values := range s.Trailer() {
		for _, v := range values {
			n := len(v)
			if strings.HasSuffix(key, "-bin") {
				n = n * 4 / 3
			}

			size += len(key) + n + 32
		}
	}

	if size > 8<<10 {
		t.Errorf("the trailer has %d bytes", size)
	}
}

// A backend that ends its part just before the time that the proxy gave it has heard the same clock.
func TestBackendHearsTheDeadlineFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		early := after(990*time.Millisecond, fail(codes.DeadlineExceeded, "of the backend"))
		conn := fan(t, plain(allConnected(t, nodes(t, early))), proxy.WithFanout(proxy.Fanout{TotalTimeout: time.Second}))

		_, _, _, err := timed(t, conn, testTimeout, unaryMethod)
		wantStatus(t, err, codes.DeadlineExceeded, "TotalTimeout")
	})
}

// A hook that ends with Canceled, because the call was decided meanwhile, is not a failure of that target.
func TestHookCancelledByDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		all := allConnected(t, nodes(t, answer("1"), after(50*time.Millisecond, answer("2"))))
		all[0] = &hookNode{node: *all[0].(*node), appendInfo: func(bool, []byte) ([]byte, error) {
			<-time.After(100 * time.Millisecond)

			return nil, status.Error(codes.Canceled, "of the hook")
		}}
		conn := fan(t, all, proxy.WithStreamedDetector(byName), proxy.WithFanout(proxy.Fanout{Policy: fanout.Any(), Summary: true}))

		s, got, _, err := timed(t, conn, testTimeout, unaryMethod)
		if err != nil || strings.Join(got, "") != "b=2;" {
			t.Errorf("got %q, %v", got, err)
		}

		if got, want := outcomes(t, s), "a:- b:COMPLETE:OK"; got != want {
			t.Errorf("outcomes %s, want %s", got, want)
		}
	})
}

// The headers of those who answered go out though others never begin.
func TestHeaderWithoutTheOthers(t *testing.T) {
	say := func(srv any, s grpc.ServerStream) error {
		_ = s.SetHeader(metadata.Pairs("h", "1"))

		return answer("x")(srv, s)
	}
	conn := fan(t, plain(nodes(t, say, say)), proxy.WithStreamedDetector(byName),
		proxy.WithFanout(proxy.Fanout{Policy: fanout.Any(), Hedge: 1, HedgeDelay: time.Hour}))

	s := open(t, conn, unaryMethod)
	_ = s.CloseSend()

	if _, err := collect(s); err != nil {
		t.Fatal(err)
	}

	if header, _ := s.Header(); !slices.Equal(header["h"], []string{"1"}) {
		t.Errorf("header %v", header)
	}
}

// A target that has ended holds back nothing of the ordered stream.
func TestOrderAfterEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		long := func(_ any, s grpc.ServerStream) error {
			send(t, s, "1")
			send(t, s, "3")

			return hang(nil, s)
		}
		conn := fan(t, nodes(t, long, answer("2")), proxy.WithStreamedDetector(byName), proxy.WithFanout(proxy.Fanout{
			OrderKey: func(m []byte) string { return string(m) },
		}))

		begin := time.Now()
		s := open(t, conn, streamMethod)
		_ = s.CloseSend()

		if got := recv(t, s) + recv(t, s) + recv(t, s); got != "a=1b=2a=3" || time.Since(begin) > time.Second {
			t.Errorf("got %q after %v", got, time.Since(begin))
		}
	})
}

// Of a method whose kind is not known, what comes before it shows itself to be a stream is in the order too, and a target that ended
// before that holds back nothing that comes later.
func TestOrderOfUnknownKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inMemory(t)

		long := func(_ any, s grpc.ServerStream) error {
			time.Sleep(time.Millisecond) // the other one has ended
			send(t, s, "1")
			send(t, s, "3")

			return hang(nil, s)
		}
		conn := fan(t, allConnected(t, nodes(t, long, answer("0"))), proxy.WithFanout(proxy.Fanout{
			OrderKey: func(m []byte) string { return string(m) },
		}))

		begin := time.Now()
		s := open(t, conn, streamMethod)
		_ = s.CloseSend()

		if got := recv(t, s) + recv(t, s) + recv(t, s); got != "b=0a=1a=3" || time.Since(begin) > time.Second {
			t.Errorf("got %q after %v", got, time.Since(begin))
		}
	})
}

// A lookup that finds nothing says so.
func TestChoiceFindsNothing(t *testing.T) {
	c := &proxy.Choice{
		Selection: fanout.Selection{Key: "Nodes", Known: []string{"a"}},
		Lookup:    func(context.Context, string) (proxy.Backend, error) { return nil, nil },
	}

	_, err := chosen(t, dialRaw(t, startProxy(t, c.Direct)), unaryMethod, "nodes", "a")
	wantStatus(t, err, codes.NotFound, `no target "a"`)
}
