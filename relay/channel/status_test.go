// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package channel_test

import (
	"encoding/base64"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// answer is what a backend does with a call once its header block is there.
type answer func(p *rawpeer.Peer, id uint32) error

// startRaw runs a backend that answers each call of each connection so.
func startRaw(t testing.TB, a answer) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := rawpeer.Serve(l, func(p *rawpeer.Peer) {
		if p.Greet() != nil {
			return
		}
		for {
			f, err := p.Until(func(f rawpeer.Frame) bool { return f.Type == http2.FrameHeaders })
			if err != nil || a(p, f.StreamID) != nil {
				return
			}
		}
	})
	t.Cleanup(b.Close)
	return l.Addr().String()
}

// steps is an answer of several.
func steps(all ...answer) answer {
	return func(p *rawpeer.Peer, id uint32) error {
		for _, a := range all {
			if err := a(p, id); err != nil {
				return err
			}
		}
		return nil
	}
}

func headers(end bool, pairs ...string) answer {
	return func(p *rawpeer.Peer, id uint32) error { return p.Headers(id, end, pairs...) }
}

func data(end bool, b []byte) answer {
	return func(p *rawpeer.Peer, id uint32) error { return p.Data(id, end, b) }
}

func reset(code http2.ErrCode) answer {
	return func(p *rawpeer.Peer, id uint32) error { return p.Reset(id, code) }
}

func cut(p *rawpeer.Peer, _ uint32) error { return net.ErrClosed }

// details is a grpc-status-details-bin for a status.
func details(t *testing.T, code codes.Code, message string) string {
	raw, err := proto.Marshal(&spb.Status{Code: int32(code), Message: message})
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawStdEncoding.EncodeToString(raw)
}

// result is what a caller sees of a call.
type result struct {
	Header   metadata.MD
	Messages []string
	Trailer  metadata.MD
	Code     codes.Code
	Message  string
}

// observe makes a streaming call and returns what comes of it.
func observe(t *testing.T, cc grpc.ClientConnInterface) (r result) {
	t.Helper()
	s, err := cc.NewStream(testContext(t), bidi, "/test.Service/Method")
	if err != nil {
		r.Code, r.Message = status.Code(err), status.Convert(err).Message()
		return r
	}
	if r.Header, err = s.Header(); err != nil {
		t.Error(err)
	}
	for {
		m := new(wrapperspb.StringValue)
		if err := s.RecvMsg(m); err != nil {
			if err.Error() != "EOF" {
				r.Code, r.Message = status.Code(err), status.Convert(err).Message()
			}
			r.Trailer = s.Trailer()
			return r
		}
		r.Messages = append(r.Messages, m.Value)
	}
}

// A statusTest is what a backend does with a call.
type statusTest struct {
	name string
	do   answer
	text bool // the message is the same as with grpc-go too
}

// statusTests returns what a backend can do with a call.
func statusTests(t *testing.T) []statusTest {
	message, err := proto.Marshal(wrapperspb.String("hello"))
	if err != nil {
		t.Fatal(err)
	}
	one := rawpeer.Message(message)
	response := headers(false, rawpeer.Response("x-k", "1", "x-k", "2", "b-bin", "AAEC/w", "grpc-encoding", "identity", "date", "today")...)
	end := func(pairs ...string) answer { return headers(true, pairs...) }
	tests := []statusTest{
		{"ok", steps(response, data(false, one), end("grpc-status", "0", "x-t", "v", "t-bin", "AAEC/w==")), true},
		{"ok without messages", steps(response, end("grpc-status", "0")), true},
		{"two messages in a frame", steps(response, data(false, append(one[:len(one):len(one)], one...)), end("grpc-status", "0")), true},
		{"a message in two frames", steps(response, data(false, one[:3]), data(false, one[3:]), end("grpc-status", "0")), true},
		{"error after a message", steps(response, data(false, one), end("grpc-status", "5", "grpc-message", "not %E2%82%AC here")), true},
		{"trailers only", end(rawpeer.TrailersOnly("7", "no")...), true},
		{"trailers only, ok", end(rawpeer.TrailersOnly("0", "")...), true},
		{"bad percent-encoding", end(rawpeer.TrailersOnly("7", "100%, 5%zz %41")...), true},
		{"details", end(rawpeer.Response("grpc-status", "9", "grpc-message", "m", "grpc-status-details-bin", details(t, 9, "longer"))...), true},
		{"details of another code", end(rawpeer.Response("grpc-status", "9", "grpc-message", "m", "grpc-status-details-bin", details(t, 8, "longer"))...), false},
		{"details that are none", end(rawpeer.Response("grpc-status", "9", "grpc-message", "m", "grpc-status-details-bin", "AAAA")...), true},
		{"code out of range", end(rawpeer.TrailersOnly("99", "odd")...), true},
		{"status that is no number", end(rawpeer.TrailersOnly("abc", "")...), true},
		{"no status in trailers", steps(response, end("x-t", "v")), true},
		{"no trailers", steps(response, data(true, one)), true},
		{"no trailers, half a message", steps(response, data(true, one[:7])), true},
		{"half a message", steps(response, data(false, one[:7]), end("grpc-status", "0")), true},
		{"half a prefix, with an error", steps(response, data(false, one[:2]), end("grpc-status", "5")), true},
		{"bad binary header", steps(headers(false, rawpeer.Response("x-bin", "!")...), end("grpc-status", "0")), true},
		{"bad binary trailer", steps(response, end("grpc-status", "0", "x-bin", "!")), true},
		{"compressed without encoding", steps(response, data(false, []byte{1, 0, 0, 0, 1, 0}), end("grpc-status", "0")), true},
		{"unknown encoding", steps(headers(false, rawpeer.Response("grpc-encoding", "odd")...), data(false, []byte{1, 0, 0, 0, 1, 0}), end("grpc-status", "0")), true},
		{"unknown flag", steps(response, data(false, []byte{2, 0, 0, 0, 1, 0}), end("grpc-status", "0")), true},
		{"message that is no protobuf", steps(response, data(false, []byte{0, 0, 0, 0, 1, 0xff}), end("grpc-status", "0")), false},
		{"message over the limit", steps(response, data(false, []byte{0, 0x7f, 0, 0, 0}), end("grpc-status", "0")), true},
		{"largest length", steps(response, data(false, one), data(false, []byte{0, 0xff, 0xff, 0xff, 0xff})), true},
		{"connection lost", steps(response, cut), false},
		{"connection lost at once", cut, false},
		{"interim response", steps(headers(false, ":status", "103"), response, end("grpc-status", "0")), true},
		{"no content-type", steps(headers(true, ":status", "200", "grpc-status", "5")), true},
		{"text", steps(headers(false, ":status", "200", "content-type", "text/plain"), data(true, []byte("hello"))), true},
		{"text with trailers", steps(headers(false, ":status", "502", "content-type", "text/html"), data(false, []byte("<b>")), end("x", "y")), true},
		{"long text", steps(headers(false, ":status", "500", "content-type", "text/html"), data(false, make([]byte, 5000))), true},
		{"status of HTTP beside gRPC", end(":status", "503", "content-type", "application/grpc", "grpc-status", "8"), true},
		{"subtype", steps(headers(false, ":status", "200", "content-type", "application/grpc+proto"), end("grpc-status", "0")), true},
		{"near miss", headers(true, ":status", "200", "content-type", "application/grpc-web"), true},
	}
	for _, code := range []int{400, 401, 403, 404, 418, 429, 500, 502, 503, 504} {
		tests = append(tests, statusTest{fmt.Sprint("HTTP ", code), headers(true, ":status", fmt.Sprint(code)), true})
	}
	for code := http2.ErrCodeNo; code <= http2.ErrCodeHTTP11Required+1; code++ {
		if code == http2.ErrCodeRefusedStream {
			continue // is tried again; see TestRefusedCallsAreTriedAgain
		}
		tests = append(tests, statusTest{"reset " + code.String(), steps(response, data(false, one), reset(code)), code <= http2.ErrCodeHTTP11Required})
	}
	return tests
}

// What a backend does has the same outcome for the channel as for grpc-go's connection: code, message, header, messages and trailer.
func TestStatusesAreThoseOfGRPCGo(t *testing.T) {
	for _, tt := range statusTests(t) {
		t.Run(tt.name, func(t *testing.T) {
			addr := startRaw(t, tt.do)
			want, got := observe(t, dial(t, addr)), observe(t, open(t, addr, relay.EndpointConfig{}))
			if !tt.text {
				if (want.Message == "") != (got.Message == "") || strings.ContainsAny(got.Message, "\r\n") {
					t.Errorf("message %q, grpc-go's %q", got.Message, want.Message)
				}
				got.Message = want.Message
			}
			if len(want.Trailer) == 0 && len(got.Trailer) == 0 {
				want.Trailer, got.Trailer = nil, nil
			}
			if !reflect.DeepEqual(want, got) {
				t.Errorf("the channel sees\n%+v, grpc-go\n%+v", got, want)
			}
		})
	}
}
