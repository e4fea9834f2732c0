// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/manifold-grpc/manifold/fanout"
	"github.com/manifold-grpc/manifold/fanout/fanoutpb"
	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/relay"
)

// A node is a target in memory: a handler, or how connections to it are not made.
type node struct {
	handler grpc.StreamHandler
	dial    func(ctx context.Context) (net.Conn, error)
}

// dead refuses connections, blackHole lets them wait.
var (
	dead      = node{dial: func(context.Context) (net.Conn, error) { return nil, errors.New("connection refused") }}
	blackHole = node{dial: func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }}
)

// slow answers after a time.
func slow(d time.Duration, h grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, st grpc.ServerStream) error {
		select {
		case <-time.After(d):
			return h(srv, st)
		case <-st.Context().Done():
			return st.Context().Err()
		}
	}
}

// endless sends messages for ever.
func endless(_ any, st grpc.ServerStream) error {
	for {
		if err := send(st, strings.Repeat("e", 1000)); err != nil {
			return err
		}
	}
}

// fanMemory is fan on a network in memory, for use inside of a bubble. It returns a channel to the relay as well.
func fanMemory(t *testing.T, cfg *relay.FanOut, rc rigConfig, nodes ...node) (*fanRig, *grpc.ClientConn) {
	t.Helper()
	front := memnet.Listen("front")
	rc.listener = front
	f := fan(t, cfg, rc)
	for i, n := range nodes {
		name := targetName(i)
		ec := rc.endpoint
		if ec.Dial = n.dial; n.handler != nil {
			back := memnet.Listen(name)
			serveOn(t, back, n.handler)
			ec.Dial = func(ctx context.Context) (net.Conn, error) { return back.DialContext(ctx) }
		}
		e := relay.NewEndpoint(name, ec)
		t.Cleanup(e.Close)
		f.targets = append(f.targets, relay.Target{
			Name: name, Annotator: marks{name}, Backend: &relay.Backend{Name: name, Endpoints: []*relay.Endpoint{e}},
		})
	}
	synctest.Wait()
	return f, dial(t, "front", append(rc.dial, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return front.DialContext(ctx)
	}))...)
}

// bestiary is the targets of the design's list: good, slow, dead, black-holed, huge, endless, failing half-way, good.
func bestiary() []node {
	huge := answers(strings.Repeat("h", 200_000))
	return []node{
		{handler: answers("m")}, {handler: slow(30*time.Millisecond, answers("m"))}, dead, blackHole,
		{handler: huge}, {handler: endless}, {handler: fails(codes.Aborted, "half")}, {handler: answers("m")},
	}
}

func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// Eight targets of all sorts, each policy, unary: the answer, the status, and what became of each target.
func TestFanBestiaryUnary(t *testing.T) {
	const all = "a:complete:OK b:complete:OK c:connect:Unavailable d:connect:DeadlineExceeded " +
		"e:receive:ResourceExhausted f:receive:ResourceExhausted g:complete:Aborted h:complete:OK"
	tests := []struct {
		policy  string
		want    string
		code    codes.Code
		message string // beginning of it
		report  string
	}{
		{"best-effort", "<a:m><b:m><c!Unavailable><d!DeadlineExceeded><e!ResourceExhausted><f!ResourceExhausted><g:half><g!Aborted><h:m>", codes.OK, "", all},
		{"all", "", codes.ResourceExhausted, "fanout: policy all: 5 of 8 targets failed: c: Unavailable: backend c: ", all},
		{"quorum(3)", "<a:m><b:m><c!Unavailable><e!ResourceExhausted><f!ResourceExhausted><g!Aborted><h:m>", codes.OK, "",
			"a:complete:OK b:complete:OK c:connect:Unavailable d:cancelled:OK e:receive:ResourceExhausted f:receive:ResourceExhausted g:complete:Aborted h:complete:OK"},
		{"quorum(4)", "", codes.ResourceExhausted, "fanout: policy quorum(4): 5 of 8 targets failed: c: Unavailable", all},
		{"primary(b)", "<a:m><b:m><c!Unavailable><e!ResourceExhausted><f!ResourceExhausted><g!Aborted><h:m>", codes.OK, "",
			"a:complete:OK b:complete:OK c:connect:Unavailable d:cancelled:OK e:receive:ResourceExhausted f:receive:ResourceExhausted g:complete:Aborted h:complete:OK"},
		{"primary(g)", "", codes.Aborted, "fanout: policy primary(g): the primary failed: g: Aborted: on demand", ""},
	}
	for _, tt := range tests {
		bubble(t, tt.policy, func(t *testing.T) {
			policy := must(fanout.ParsePolicy(tt.policy))(t)
			cfg := &relay.FanOut{Policy: policy, Summary: true, ConnectTimeout: 50 * time.Millisecond, Limits: relay.FanLimits{TargetBytes: 100_000}}
			f, cc := fanMemory(t, cfg, rigConfig{}, bestiary()...)
			for range 3 {
				var trailer metadata.MD
				out, err := unary(within(t), cc, "/a.B/Unary", "x", grpc.Trailer(&trailer))
				st := status.Convert(err)
				if st.Code() != tt.code || !strings.HasPrefix(st.Message(), tt.message) || out != tt.want {
					t.Errorf("answer %q, status %v %q\nwant %q, %v %q", out, st.Code(), st.Message(), tt.want, tt.code, tt.message)
				}
				if got := report(t, trailer); tt.report != "" && got != tt.report {
					t.Errorf("report %q\nwant %q", got, tt.report)
				}
				if s := <-f.stats; outcomesOf(s) != report(t, trailer) {
					t.Errorf("hooks %q", outcomesOf(s))
				}
			}
		})
	}
}

// The same targets on a stream, whose endless one ends by its time.
func TestFanBestiaryStreaming(t *testing.T) {
	for _, envelope := range []bool{false, true} {
		name := "concat"
		if envelope {
			name = "envelope"
		}
		bubble(t, name, func(t *testing.T) {
			cfg := &relay.FanOut{
				Policy: fanout.BestEffort(), Streaming: true, Envelope: envelope, Summary: true, ConnectTimeout: 50 * time.Millisecond,
				TotalTimeout: 200 * time.Millisecond, Limits: relay.FanLimits{TargetBytes: 100_000},
			}
			_, cc := fanMemory(t, cfg, rigConfig{}, bestiary()...)
			// A caller that reads no faster than a message a millisecond.
			st := must(cc.NewStream(within(t), bidi, "/a.B/Stream"))(t)
			check(t, send(st, "x"))
			check(t, st.CloseSend())
			count := map[string]int{}
			var err error
			for {
				var m string
				if m, err = recv(st); err != nil {
					break
				}
				if len(m) > 900 {
					time.Sleep(time.Millisecond)
				}
				for _, what := range events(t, m, envelope) {
					count[what]++
				}
			}
			if err.Error() != "EOF" {
				t.Errorf("the call ended with %v", err)
			}
			want := map[string]int{"a m": 1, "b m": 1, "g half": 1, "h m": 1, "c!Unavailable": 1, "d!DeadlineExceeded": 1,
				"e!ResourceExhausted": 1, "f!DeadlineExceeded": 1, "g!Aborted": 1}
			if envelope {
				want["a!OK"], want["b!OK"], want["h!OK"] = 1, 1, 1
			}
			n := count["f e"]
			delete(count, "f e")
			if n < 100 || !mapsEqual(count, want) {
				t.Errorf("events %v and %d of the endless one, want %v", count, n, want)
			}
			const outcomes = "a:complete:OK b:complete:OK c:connect:Unavailable d:connect:DeadlineExceeded " +
				"e:receive:ResourceExhausted f:receive:DeadlineExceeded g:complete:Aborted h:complete:OK"
			if r := report(t, st.Trailer()); r != outcomes {
				t.Errorf("report %q\nwant %q", r, outcomes)
			}
		})
	}
}

func mapsEqual(a, b map[string]int) bool {
	for k, n := range a {
		if b[k] != n {
			return false
		}
	}
	return len(a) == len(b)
}

// events names what a message of a stream is: "name text", or "name!CODE" for an end.
func events(t *testing.T, m string, envelope bool) []string {
	if !envelope {
		if text, name, ok := strings.Cut(m, "@"); ok {
			return []string{name + " " + shorten(text)}
		}
		return []string{m}
	}
	var e fanoutpb.FanoutMessage
	check(t, proto.Unmarshal([]byte(m), &e))
	name := e.GetTarget().GetName()
	switch x := e.GetEvent().(type) {
	case *fanoutpb.FanoutMessage_Payload:
		return []string{name + " " + shorten(string(x.Payload))}
	case *fanoutpb.FanoutMessage_Outcome:
		return []string{name + "!" + codes.Code(x.Outcome.GetStatus().GetCode()).String()}
	}
	return nil
}

func shorten(s string) string {
	if len(s) > 100 {
		return s[:1]
	}
	return s
}

// A silent node does not void what the others answered, within the caller's second.
func TestFanReserve(t *testing.T) {
	for _, reserve := range []time.Duration{0, 300 * time.Millisecond} {
		bubble(t, reserve.String(), func(t *testing.T) {
			cfg := &relay.FanOut{Policy: fanout.BestEffort(), Summary: true, Reserve: reserve}
			_, cc := fanMemory(t, cfg, rigConfig{}, node{handler: answers("m")}, node{handler: mute}, node{handler: answers("m")})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begin := time.Now()
			var trailer metadata.MD
			out, err := unary(ctx, cc, "/a.B/Unary", "x", grpc.Trailer(&trailer))
			want := time.Second - reserve
			if reserve == 0 {
				want = 900 * time.Millisecond
			}
			if took := time.Since(begin); err != nil || out != "<a:m><b!DeadlineExceeded><c:m>" || took > want+5*time.Millisecond || took < want-5*time.Millisecond {
				t.Errorf("%q, %v after %v, want after %v", out, err, took, want)
			}
			if r := report(t, trailer); r != "a:complete:OK b:receive:DeadlineExceeded c:complete:OK" {
				t.Errorf("report %q", r)
			}
		})
	}
}

// The caller's cancel and the early answer reach every target at once.
func TestFanCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Time, 20)
		watched := func(_ any, st grpc.ServerStream) error {
			<-st.Context().Done()
			ended <- time.Now()
			return nil
		}
		f, cc := fanMemory(t, &relay.FanOut{Policy: fanout.Any()}, rigConfig{},
			node{handler: watched}, node{handler: slow(time.Second, answers("m"))}, node{handler: watched}, blackHole)
		out, err := unary(within(t), cc, "/a.B/Unary", "x")
		begin := time.Now()
		for range 2 {
			if took := (<-ended).Sub(begin); took > 50*time.Millisecond {
				t.Errorf("a target heard of the early answer %v later", took)
			}
		}
		if err != nil || out != "<b:m>" {
			t.Errorf("%q, %v", out, err)
		}
		<-f.stats

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		begin = time.Now()
		if _, err := unary(ctx, cc, "/a.B/Unary", "x"); status.Code(err) != codes.Canceled {
			t.Errorf("the caller that cancelled got %v", err)
		}
		for range 2 {
			if took := (<-ended).Sub(begin) - 500*time.Millisecond; took > 50*time.Millisecond {
				t.Errorf("a target heard of the cancel %v later", took)
			}
		}
		if s := <-f.stats; s.Code != codes.Canceled || outcomesOf(s) != "a:cancelled:OK b:cancelled:OK c:cancelled:OK d:cancelled:OK" {
			t.Errorf("stats %v %q", s.Code, outcomesOf(s))
		}
		for _, target := range f.targets {
			if n := target.Backend.Endpoints[0].InFlight(); n != 0 {
				t.Errorf("%d calls left at %s", n, target.Name)
			}
		}
	})
}

// Hedging starts few targets, and more when one fails or takes long.
func TestFanHedge(t *testing.T) {
	tests := []struct {
		name  string
		nodes []node
		want  string
		took  time.Duration
	}{
		{"the first is good", []node{{handler: answers("m")}, {handler: answers("m")}}, "<a:m>", 0},
		{"the first is slow", []node{{handler: mute}, {handler: answers("m")}, {handler: answers("m")}}, "<b:m>", 100 * time.Millisecond},
		{"the first fails", []node{{handler: fails(codes.Unavailable)}, {handler: answers("m")}}, "<a!Unavailable><b:m>", 0},
		{"the first are dead", []node{dead, dead, dead, {handler: answers("m")}}, "<a!Unavailable><b!Unavailable><c!Unavailable><d:m>", 0},
	}
	for _, tt := range tests {
		bubble(t, tt.name, func(t *testing.T) {
			_, cc := fanMemory(t, &relay.FanOut{Policy: fanout.Any(), Hedge: 1}, rigConfig{}, tt.nodes...)
			begin := time.Now()
			out, err := unary(within(t), cc, "/a.B/Unary", "x")
			if took := time.Since(begin); err != nil || out != tt.want || took < tt.took || took > tt.took+50*time.Millisecond {
				t.Errorf("%q, %v after %v", out, err, took)
			}
		})
	}
}

// Timers of a target: no connection, silence, and its whole time.
func TestFanTimers(t *testing.T) {
	ticking := func(_ any, st grpc.ServerStream) error {
		for range 100 {
			select {
			case <-time.After(80 * time.Millisecond):
			case <-st.Context().Done():
				return nil
			}
			if err := send(st, "t"); err != nil {
				return err
			}
		}
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		cfg := &relay.FanOut{
			Policy: fanout.All(), Streaming: true, Summary: true,
			ConnectTimeout: 50 * time.Millisecond, IdleTimeout: 100 * time.Millisecond, TotalTimeout: 140 * time.Millisecond,
		}
		_, cc := fanMemory(t, cfg, rigConfig{}, blackHole, node{handler: mute}, node{handler: ticking})
		got, st, trailer := collect(within(t), t, cc, "x")
		const want = `fanout: policy all: 3 of 3 targets failed: a: DeadlineExceeded: endpoint a: no connection with room for a stream within 50ms; ` +
			`b: DeadlineExceeded: endpoint b: nothing came for 100ms; c: DeadlineExceeded: endpoint c: no end within 140ms`
		if st.Code() != codes.DeadlineExceeded || st.Message() != want {
			t.Errorf("status %v %q", st.Code(), st.Message())
		}
		if r := report(t, trailer); r != "a:connect:DeadlineExceeded b:receive:DeadlineExceeded c:receive:DeadlineExceeded" {
			t.Errorf("report %q", r)
		}
		if want := []string{"a!DeadlineExceeded", "t@c", "b!DeadlineExceeded", "c!DeadlineExceeded"}; strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("messages %q, want %q", got, want)
		}
	})
}

// What one call holds is bounded, with targets that are huge and a caller that reads nothing.
func TestFanMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := make([]int, 8)
		flood := func(i int) node {
			return node{handler: func(_ any, st grpc.ServerStream) error {
				for {
					if err := send(st, strings.Repeat("f", 10_000)); err != nil {
						return err
					}
					sent[i] += 10_000
				}
			}}
		}
		var nodes []node
		for i := range sent {
			nodes = append(nodes, flood(i))
		}
		f, cc := fanMemory(t, &relay.FanOut{Streaming: true}, rigConfig{}, nodes...)
		ctx, cancel := context.WithCancel(t.Context())
		st := must(cc.NewStream(ctx, bidi, "/a.B/Stream"))(t)
		check(t, st.CloseSend())
		time.Sleep(10 * time.Second) // nobody moves any more
		synctest.Wait()
		// The windows of eight targets are 64 KiB each, and grow while they are read; the client's takes 64 KiB and more.
		if n := f.Buffered(); n > 8*(128<<10) {
			t.Errorf("%d octets are held for one call", n)
		}
		before := append([]int(nil), sent...)
		check(t, drainSome(st, 100))
		synctest.Wait()
		moved := 0
		for i := range sent {
			moved += sent[i] - before[i]
		}
		if moved == 0 {
			t.Error("the targets stand still although the caller reads")
		}
		cancel()
		<-f.stats
		if n := f.Buffered(); n != 0 {
			t.Errorf("%d octets are held after the end", n)
		}
	})
}

func drainSome(st grpc.ClientStream, n int) error {
	for range n {
		if _, err := recv(st); err != nil {
			return err
		}
	}
	return nil
}

// A target that takes no requests holds the caller up until it has stalled for too long; then, or at once with DropSlow,
// the others go on without it. They get every octet. QueuedBytes is more than the window that a target may fill without reading, which
// grpc-go has grow: one that reads may well be that far behind another that does not, for a moment.
func TestFanSlowTarget(t *testing.T) {
	for _, drop := range []bool{false, true} {
		name := "wait"
		if drop {
			name = "drop"
		}
		bubble(t, name, func(t *testing.T) {
			count := func(_ any, st grpc.ServerStream) error {
				n := 0
				for {
					m, err := recv(st)
					if err != nil {
						return send(st, strings.Repeat("+", n))
					}
					n += len(m) / 10_000
				}
			}
			cfg := &relay.FanOut{Policy: fanout.BestEffort(), Summary: true,
				Limits: relay.FanLimits{QueuedBytes: 200_000, StallTimeout: 3 * time.Second, DropSlow: drop}}
			_, cc := fanMemory(t, cfg, rigConfig{}, node{handler: count}, node{handler: mute})
			begin := time.Now()
			st := must(cc.NewStream(within(t), bidi, "/a.B/Upload"))(t)
			for range 100 {
				if send(st, strings.Repeat("u", 10_000)) != nil {
					out, err := recv(st)
					t.Fatalf("the call ended early: %q, %v", out, err)
				}
			}
			check(t, st.CloseSend())
			out := must(recv(st))(t)
			if out != "<a:"+strings.Repeat("+", 100)+"><b!ResourceExhausted>" {
				t.Errorf("answer %q", out)
			}
			if took := time.Since(begin); !drop && (took < 3*time.Second || took > 4*time.Second) || drop && took > 50*time.Millisecond {
				t.Errorf("took %v", took)
			}
			if _, err := recv(st); err == nil || err.Error() != "EOF" {
				t.Errorf("end %v", err)
			}
			if r := report(t, st.Trailer()); r != "a:complete:OK b:send:ResourceExhausted" {
				t.Errorf("report %q", r)
			}
		})
	}
}

// Messages much larger than any window come whole, of all targets.
func TestFanLargeMessages(t *testing.T) {
	for _, streaming := range []bool{false, true} {
		name := "unary"
		if streaming {
			name = "streaming"
		}
		bubble(t, name, func(t *testing.T) {
			big := bytes.Repeat([]byte("0123456789"), 300_000)
			f, cc := fanMemory(t, &relay.FanOut{Streaming: streaming}, rigConfig{}, node{handler: echo}, node{handler: echo}, node{handler: echo})
			for i := range f.targets {
				f.targets[i].Annotator = nil
			}
			got, st, _ := collect(within(t), t, cc, string(big))
			want := 3
			if !streaming {
				want = 1
			}
			total := 0
			for _, m := range got {
				total += len(m)
				for len(m) > 0 && strings.HasPrefix(m, string(big)) {
					m = m[len(big):]
				}
				if m != "" {
					t.Errorf("a message that is not what was sent")
				}
			}
			if st.Code() != codes.OK || len(got) != want || total != 3*len(big) {
				t.Errorf("%v: %d messages of %d octets", st, len(got), total)
			}
		})
	}
}
