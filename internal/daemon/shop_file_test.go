// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/exampletest"
	"github.com/manifold-grpc/manifold/proxy"
)

// asItStands has TestShopFile run the file without a change: on a host that has its addresses, such as
// a network namespace of its own.
const asItStands = "MANIFOLD_SHOP_AS_IT_STANDS"

// A shop is what examples/shop/manifold.yaml speaks of: two endpoints of a catalogue and two machines.
type shop struct {
	dir      string // of the file and its certificates
	catalog  [2]*shopServer
	machines [2]*shopServer
	daemon   *Daemon
}

// shopServer answers every call with its name; on demand it fails.
type shopServer struct {
	name   string
	addr   string
	health *grpchealth.Server
}

// startShopServer serves at addr, or at any free port of the loopback where the file is changed.
func startShopServer(t *testing.T, name, addr string, opts ...grpc.ServerOption) *shopServer {
	t.Helper()

	if os.Getenv(asItStands) == "" {
		addr = loopback.Addr
	}
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &shopServer{name: name, addr: lis.Addr().String(), health: grpchealth.NewServer()}
	s.health.SetServingStatus("shop.v1.Catalog", healthpb.HealthCheckResponse_SERVING)
	server := grpc.NewServer(append(opts, grpc.WaitForHandlers(true),
		grpc.ForceServerCodecV2(proxy.Codec()), grpc.UnknownServiceHandler(s.serve))...)
	healthpb.RegisterHealthServer(server, s.health)
	done := make(chan struct{})
	go func() { // until Stop
		defer close(done)
		_ = server.Serve(lis) // Stop is its only end
	}()
	t.Cleanup(func() {
		s.health.Shutdown() // ends the watches
		server.Stop()
		<-done
	})

	return s
}

// serve answers a request with the name, and with the identity of the client where there is one.
func (s *shopServer) serve(_ any, stream grpc.ServerStream) error {
	request := proxy.NewFrame(nil).(*proxy.Frame)
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	if string(request.Bytes()) == "fail "+s.name {
		return status.Error(codes.Unavailable, "as asked")
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	answer := "<" + s.name + strings.Join(md.Get(identityHeader), "") + ">"

	return stream.SendMsg(proxy.NewFrame([]byte(answer)))
}

// openShop makes the certificates as a user would, starts the servers that the file names, and the daemon.
func openShop(t *testing.T) *shop {
	t.Helper()

	s := &shop{dir: exampletest.Certificates(t, "shop/certificates.sh")}
	catalog := exampletest.Pair(t, s.dir, "catalog")
	creds := grpc.Creds(credentials.NewServerTLSFromCert(&catalog))
	for i, addr := range []string{"10.0.0.1:50051", "10.0.0.2:50051"} {
		s.catalog[i] = startShopServer(t, string(rune('0'+i)), addr, creds)
	}
	for i, addr := range []string{"10.0.1.1:50000", "10.0.1.2:50000"} {
		s.machines[i] = startShopServer(t, "node-"+string(rune('a'+i)), addr)
	}
	s.daemon = startDaemon(t, Config{File: s.file(t)})

	return s
}

// file returns the example, with the addresses of the servers unless it is to run as it stands.
func (s *shop) file(t *testing.T) *config.Config {
	t.Helper()

	var oldnew []string
	if os.Getenv(asItStands) == "" {
		oldnew = []string{
			`":8443"`, "127.0.0.1:0", "unix:///run/manifold.sock", "unix:" + socket(t, "m").Addr,
			"10.0.0.1:50051", s.catalog[0].addr, "10.0.0.2:50051", s.catalog[1].addr,
			"10.0.1.1:50000", s.machines[0].addr, "10.0.1.2:50000", s.machines[1].addr,
		}
	}

	return loadExample(t, "shop/manifold.yaml", s.dir, oldnew...)
}

// public connects to the TLS frontend as its clients do, with or without a certificate.
func (s *shop) public(t *testing.T, host string, certificates ...tls.Certificate) *grpc.ClientConn {
	t.Helper()

	return connectTo(t, s.daemon, "public", credentials.NewTLS(&tls.Config{
		RootCAs: exampletest.Pool(t, s.dir, "public-ca.pem"), Certificates: certificates, ServerName: host,
	}))
}

// call makes a call with one request of octets that are no protobuf, nobody between cares, and returns all
// answers, in the order of their texts.
func call(t *testing.T, conn *grpc.ClientConn, method, text string, pairs ...string) (string, error) {
	t.Helper()

	ctx := metadata.AppendToOutgoingContext(callContext(t), pairs...)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, grpc.ForceCodecV2(proxy.Codec()))
	if err != nil {
		return "", err
	}
	if err := stream.SendMsg(proxy.NewFrame([]byte(text))); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	var answers []string
	for {
		answer := proxy.NewFrame(nil).(*proxy.Frame)
		if err := stream.RecvMsg(answer); errors.Is(err, io.EOF) {
			slices.Sort(answers)
			return strings.Join(answers, ""), nil
		} else if err != nil {
			return "", err
		}
		answers = append(answers, string(answer.Bytes()))
	}
}

// TestShopFile runs the sample file of the documentation, with the certificates that its script makes,
// and sees that it does what its comments say.
func TestShopFile(t *testing.T) {
	s := openShop(t)
	t.Run("catalog", func(t *testing.T) { testShopCatalog(t, s) })
	t.Run("machines", func(t *testing.T) { testShopMachines(t, s) })
}

func testShopCatalog(t *testing.T, s *shop) {
	if _, err := call(t, s.public(t, "api.example.com"), "/shop.v1.Catalog/List", ""); status.Code(err) != codes.Unavailable {
		t.Errorf("a client without a certificate gets %v, want no connection", err)
	}
	client := exampletest.Pair(t, s.dir, "client")
	if _, err := call(t, s.public(t, "localhost", client), "/shop.v1.Catalog/List", ""); status.Code(err) != codes.Unimplemented {
		t.Errorf("another host gets %v, want no route", err)
	}

	conn := s.public(t, "api.example.com", client)
	var order []string
	for range 6 {
		answer, err := call(t, conn, "/shop.v1.Catalog/List", "", identityHeader, "forged")
		if err != nil || !strings.Contains(answer, `Subject="CN=client"`) || strings.Contains(answer, "forged") {
			t.Fatalf("%q, %v, want an answer that names the client", answer, err)
		}
		order = append(order, answer[1:2])
	}
	if got := strings.Join(order, ""); got != "010101" && got != "101010" {
		t.Errorf("calls of one connection went to %s, want to each endpoint in turn", got)
	}

	// By its watch, not by the next interval.
	s.catalog[0].health.SetServingStatus("shop.v1.Catalog", healthpb.HealthCheckResponse_NOT_SERVING)
	ctx := callContext(t)
	for run := 0; run < 10; {
		answer, err := call(t, conn, "/shop.v1.Catalog/List", "")
		if err != nil || ctx.Err() != nil {
			t.Fatalf("%v, %v, while one endpoint is not serving", err, context.Cause(ctx))
		}
		if run++; answer[1:2] == "0" {
			run = 0
		}
	}
}

func testShopMachines(t *testing.T, s *shop) {
	conn := connectTo(t, s.daemon, "local", insecure.NewCredentials())
	const method = "/machine.v1.MachineService/Version"
	tests := []struct {
		name, text string
		pairs      []string
		want       string
		code       codes.Code
		message    string
	}{
		{"one", "", []string{"nodes", "node-b"}, "<node-b>", codes.OK, ""},
		{"two", "", []string{"nodes", "node-b,node-a"}, "<node-a><node-b>", codes.OK, ""},
		{"all", "", []string{"nodes", "*"}, "<node-a><node-b>", codes.OK, ""},
		{"one of two fails", "fail node-b", []string{"nodes", "*"}, "", codes.Unavailable, "fanout: policy all: 1 of 2 targets failed: node-b: Unavailable: as asked"},
		{"none chosen", "", nil, "", codes.Unimplemented, "manifold: no route for " + method},
		{"unknown", "", []string{"nodes", "10.9.9.9:1"}, "", codes.PermissionDenied, `fanout: metadata "nodes": target "10.9.9.9:1" is not allowed`},
		{"one fails", "fail node-b", []string{"nodes", "node-b"}, "", codes.Unavailable, "as asked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answer, err := call(t, conn, method, tt.text, tt.pairs...)
			if st := status.Convert(err); st.Code() != tt.code || st.Message() != tt.message || answer != tt.want {
				t.Errorf("%q, %v %q, want %q, %v %q", answer, st.Code(), st.Message(), tt.want, tt.code, tt.message)
			}
		})
	}
}
