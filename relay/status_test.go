// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"context"
	"encoding/base64"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
	"github.com/manifold-grpc/manifold/internal/memnet"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
)

func TestEncodeMessage(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", ""},
		{"plain text, with ~ and !", "plain text, with ~ and !"},
		{"100%", "100%25"},
		{"%41", "%2541"},
		{"a\tb\nc\x00", "a%09b%0Ac%00"},
		{"\x7f\x1f", "%7F%1F"},
		{" a ", "%20a%20"},
		{" ", "%20"},
		{"世", "%E4%B8%96"},
		{"\xff\xfe", "%FF%FE"},
	}
	for _, tt := range tests {
		if got := encodeMessage(tt.in); got != tt.want {
			t.Errorf("encodeMessage(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

// answering plays a backend that answers every request with what next says, and
// returns a channel of grpc-go's to it.
func answering(t testing.TB, next func() []string) *grpc.ClientConn {
	l := memnet.Listen("statuses")
	backend := rawpeer.Serve(l, func(p *rawpeer.Peer) {
		if p.Greet() != nil {
			return
		}
		for {
			f, err := p.Read()
			if err != nil || f.Type == http2.FrameHeaders && p.Headers(f.StreamID, true, next()...) != nil {
				return
			}
		}
	})
	cc, err := grpc.NewClient("passthrough:///mem", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Close() //nolint:errcheck // over either way
		backend.Close()
	})
	return cc
}

// Whatever a message is made of, grpc-go's client must read from the wire what
// went in.
func FuzzEncodeMessage(f *testing.F) {
	for _, s := range []string{"", "plain", "100%", "%41%", "世界", "\x00\r\n", "\xff", " outer space "} {
		f.Add(s)
	}
	var message string
	cc := answering(f, func() []string { return rawpeer.TrailersOnly("9", encodeMessage(message)) })
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 4<<10 {
			t.Skip("larger than header lists may be")
		}
		message = s
		err := cc.Invoke(t.Context(), "/a.B/C", &emptypb.Empty{}, &emptypb.Empty{})
		if st := status.Convert(err); st.Code() != codes.FailedPrecondition || st.Message() != s {
			t.Errorf("%q arrived as %v, %q", s, st.Code(), st.Message())
		}
	})
}

// A status of the relay's own must reach grpc-go's client whole, with its details.
func TestStatusFields(t *testing.T) {
	sent := failure(codes.Unavailable, ReasonNoEndpoint, "backend \"b\": 100 % of nothing, 世界")
	cc := answering(t, func() []string {
		pairs := rawpeer.Response()
		for _, f := range statusFields(nil, sent) {
			pairs = append(pairs, f.Name, f.Value)
		}
		return pairs
	})
	err := cc.Invoke(t.Context(), "/a.B/C", &emptypb.Empty{}, &emptypb.Empty{})
	got := status.Convert(err)
	if !proto.Equal(got.Proto(), sent.Proto()) {
		t.Fatalf("got %v, want %v", got.Proto(), sent.Proto())
	}
	info, ok := got.Details()[0].(*errdetails.ErrorInfo)
	if !ok || info.GetReason() != "NO_ENDPOINT" || info.GetDomain() != "manifold" {
		t.Errorf("detail is %v", got.Details()[0])
	}
}

func TestStatusFieldsShort(t *testing.T) {
	fields := statusFields(nil, status.New(codes.Aborted, ""))
	if len(fields) != 1 || fields[0].Name != "grpc-status" || fields[0].Value != "10" {
		t.Errorf("a status without message and details became %v", fields)
	}
	st := status.FromProto(&rpcstatus.Status{Code: 3, Details: failure(1, "R", "").Proto().GetDetails()})
	fields = statusFields(nil, st)
	if len(fields) != 2 || fields[1].Name != "grpc-status-details-bin" {
		t.Fatalf("a status without message became %v", fields)
	}
	if _, err := base64.RawStdEncoding.DecodeString(fields[1].Value); err != nil {
		t.Error(err)
	}
}

func TestCodeOfReset(t *testing.T) {
	// gRPC over HTTP/2, "Errors"; what it does not name is INTERNAL.
	want := map[frame.Code]codes.Code{
		frame.RefusedStream: codes.Unavailable, frame.Cancel: codes.Canceled,
		frame.EnhanceYourCalm: codes.ResourceExhausted, frame.InadequateSecurity: codes.PermissionDenied,
	}
	for c := range frame.Code(20) {
		w, ok := want[c]
		if !ok {
			w = codes.Internal
		}
		if got := codeOfReset(c); got != w {
			t.Errorf("codeOfReset(%v) = %v, want %v", c, got, w)
		}
	}
}

func TestCodeOfHTTP(t *testing.T) {
	tests := map[string]codes.Code{
		"400": codes.Internal, "401": codes.Unauthenticated, "403": codes.PermissionDenied, "404": codes.Unimplemented,
		"429": codes.Unavailable, "502": codes.Unavailable, "503": codes.Unavailable, "504": codes.Unavailable,
		"200": codes.Unknown, "204": codes.Unknown, "301": codes.Unknown, "418": codes.Unknown, "500": codes.Unknown, "": codes.Unknown,
	}
	for s, want := range tests {
		if got := codeOfHTTP(s); got != want {
			t.Errorf("codeOfHTTP(%q) = %v, want %v", s, got, want)
		}
	}
}

func TestCodeOf(t *testing.T) {
	tests := map[string]codes.Code{
		"0": codes.OK, "5": codes.NotFound, "16": codes.Unauthenticated, "007": 7,
		"17": 17, "200": 200, "": codes.Unknown, "-1": codes.Unknown, "x": codes.Unknown, "1 ": codes.Unknown,
		"99999999999999999999": codes.Unknown,
	}
	for s, want := range tests {
		if got := codeOf(s); got != want {
			t.Errorf("codeOf(%q) = %d, want %d", s, got, want)
		}
	}
}

func TestIsGRPC(t *testing.T) {
	tests := map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc+json": true,
		"application/grpc+x.y-z": true, "application/grpc;charset=utf-8": true, "APPLICATION/GRPC+Proto": true,
		"application/grpc+": true,
		"":                  false, "application/grp": false, "application/grpc-web": false, "application/grpc-web+proto": false,
		"application/grpcx": false, "application/json": false, "text/plain": false, " application/grpc": false,
	}
	for s, want := range tests {
		if got := isGRPC(s); got != want {
			t.Errorf("isGRPC(%q) = %t", s, got)
		}
	}
}
