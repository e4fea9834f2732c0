// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// declared is a configuration file that a test changes.
type declared struct {
	mu   sync.Mutex
	text string
}

func (f *declared) set(text string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text = fmt.Sprintf(text, args...)
}

func (f *declared) load() (*config.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()

	return config.Source{Name: "/test.yaml"}.Parse([]byte(f.text))
}

// startDeclared runs a daemon whose file can change.
func startDeclared(t *testing.T, cfg Config, text string, args ...any) (*Daemon, *declared) {
	t.Helper()
	f := &declared{}
	f.set(text, args...)
	cfg.Load = f.load

	return startDaemon(t, cfg), f
}

func reload(t *testing.T, d *Daemon) {
	t.Helper()
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
}

// talk sends a text over a stream and wants it back.
func talk(t *testing.T, stream grpc.BidiStreamingClient[samplepb.EchoRequest, samplepb.EchoResponse], text string) {
	t.Helper()
	if err := stream.Send(&samplepb.EchoRequest{Text: text}); err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || resp.GetText() != text {
		t.Fatalf("answer to %q: %v, %v", text, resp, err)
	}
}

const oneBackend = `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {%s: {endpoints: ["%s"]}}
routes: [{backend: %[1]s}]
`

// Calls go by what the file says now, those in flight as they began, over the connection that was there.
func TestReloadRoutes(t *testing.T) {
	backends := startBackends(t, 2)
	d, file := startDeclared(t, Config{}, oneBackend, "a", backends[0].Addr())
	addr := d.Addr()
	conn := connect(t, d)
	stream := openChat(t, conn)
	talk(t, stream, "before")

	file.set(oneBackend, "b", backends[1].Addr())
	reload(t, d)
	if name, err := echo(callContext(t), conn); err != nil || name != "1" {
		t.Errorf("a call after the reload: %q, %v", name, err)
	}
	talk(t, stream, "after")
	if d.Addr() != addr || d.running()[0].server.Connections() != 1 {
		t.Errorf("listening on %v, not %v; %d connections", d.Addr(), addr, d.running()[0].server.Connections())
	}
	if s := d.ReloadStatus(); s.Err != nil || s.Loads != 2 || s.Failures != 0 || s.Loaded != s.Attempted {
		t.Errorf("status = %+v", s)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end of the stream: %v", err)
	}
	d.retiring.Wait() // the removed backend is idle
}

// A reload leaves the connections of a backend that is the same alone, and takes over what is new of one of the same name.
func TestReloadKeepsBackends(t *testing.T) {
	backends := startBackends(t, 3)
	const text = `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends:
  same: {endpoints: ["%s"]}
  grows: {endpoints: [%s]}
routes: [{backend: grows}, {match: {metadata: {to: same}}, backend: same}]
`
	one := fmt.Sprintf("%q", backends[1].Addr())
	d, file := startDeclared(t, Config{}, text, backends[0].Addr(), one)
	conn := connect(t, d)
	before := d.world.Load()
	file.set(text, backends[0].Addr(), one+fmt.Sprintf(", %q", backends[2].Addr()))
	reload(t, d)
	after := d.world.Load()
	if before.upstreams["same"] != after.upstreams["same"] || before.upstreams["grows"] != after.upstreams["grows"] {
		t.Error("backends of the same name are made anew")
	}
	seen := map[string]int{}
	for len(seen) < 2 {
		name, err := echo(callContext(t), conn)
		if err != nil {
			t.Fatal(err)
		}
		seen[name]++
	}
	if seen["1"] == 0 || seen["2"] == 0 {
		t.Errorf("answers of %v, want those of the endpoint before and the new one", seen)
	}
}

// A file with mistakes changes nothing, and all of them can be seen.
func TestReloadBadFile(t *testing.T) {
	backend := startBackends(t, 1)[0]
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // nothing was written
	var log logBuffer
	d, file := startDeclared(t, Config{Log: log.logger()}, oneBackend, "a", backend.Addr())
	conn := connect(t, d)
	stream := openChat(t, conn)
	before := d.world.Load()
	const two = `
frontends: [{name: g, listen: "127.0.0.1:0"}, {name: f, listen: "%s"%s}]
backends: {b: {endpoints: ["%s"]}}
routes: [{backend: b}]
`
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"mistakes", "frontends: [{name: f, listen: 1, x: 2}]\nbackend: 1\n", []string{"/test.yaml:1:31:", `unknown key \"x\"`, `unknown key \"backend\"`}},
		{"no certificate", fmt.Sprintf(two, "127.0.0.1:0", ", tls: {certificates: [{cert: /no.crt, key: /no.key}]}", backend.Addr()), []string{"open /no.crt"}},
		{"a taken address", fmt.Sprintf(two, taken.Addr(), "", backend.Addr()), []string{"address already in use"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file.set("%s", tt.text)
			err := d.Reload()
			if s := d.ReloadStatus(); err == nil || s.Err == nil || s.Loads != 1 || s.Loaded == s.Attempted {
				t.Errorf("error = %v, status = %+v", err, s)
			}
			for _, want := range tt.want {
				if !strings.Contains(log.String(), want) {
					t.Errorf("the log has no %q:\n%s", want, log.String())
				}
			}
			if d.world.Load() != before {
				t.Error("something changed")
			}
			talk(t, stream, "still here")
			if _, err := echo(callContext(t), conn); err != nil {
				t.Error(err)
			}
		})
	}
}

// Listeners come, go and stay with the file; clients of one that goes are sent away after their calls.
func TestReloadFrontends(t *testing.T) {
	backend := startBackends(t, 1)[0]
	const text = `
frontends: [%s]
backends: {b: {endpoints: ["%s"]}}
routes: [{backend: b}]
`
	stays, goes, comes := socket(t, "stays"), socket(t, "goes"), socket(t, "comes")
	d, file := startDeclared(t, Config{}, text, fmt.Sprintf(`{name: stays, listen: "%s"}, {name: goes, listen: "%s"}`, stays, goes), backend.Addr())
	kept := connectTo(t, d, "stays", insecure.NewCredentials())
	stream := openChat(t, kept)
	left := connectTo(t, d, "goes", insecure.NewCredentials())
	last := openChat(t, left)

	file.set(text, fmt.Sprintf(`{name: renamed, listen: "%s"}, {name: comes, listen: "%s"}`, stays, comes), backend.Addr())
	reload(t, d)
	if _, ok := d.AddrOf("goes"); ok {
		t.Error("the frontend is still there")
	}
	if _, err := net.Dial("unix", goes.Addr); err == nil {
		t.Error("the removed address still listens")
	}
	if _, err := echo(callContext(t), connectTo(t, d, "comes", insecure.NewCredentials())); err != nil {
		t.Errorf("the new frontend: %v", err)
	}
	if _, err := echo(callContext(t), kept); err != nil {
		t.Errorf("the one that stays: %v", err)
	}
	talk(t, stream, "kept")
	talk(t, last, "the last call of the old")
	if err := last.CloseSend(); err != nil {
		t.Fatal(err)
	}
	d.retiring.Wait() // the removed frontend ends with its last call
	if n := d.running()[0].server.Connections(); n != 1 {
		t.Errorf("%d connections to the frontend that stays, want the one of before", n)
	}

	file.set(text, fmt.Sprintf(`{name: again, listen: "%s"}`, goes), backend.Addr())
	reload(t, d)
	if _, err := echo(callContext(t), connectTo(t, d, "again", insecure.NewCredentials())); err != nil {
		t.Errorf("the address again: %v", err)
	}
}

// A call between its route and its backend, when the backend is removed, works as if the reload had come later.
func TestReloadBetweenRouteAndBackend(t *testing.T) {
	backends := startBackends(t, 2)
	d, file := startDeclared(t, Config{}, oneBackend, "a", backends[0].Addr())
	conn := connect(t, d)
	old := d.running()[0].router.Load()
	file.set(oneBackend, "b", backends[1].Addr())
	reload(t, d)
	d.running()[0].router.Store(old) // as a call sees it that has just loaded it
	if name, err := echo(callContext(t), conn); err != nil || name != "0" {
		t.Errorf("answer of %q, %v", name, err)
	}
}

// The time that drain.removed gives is the most that calls of what is removed get.
func TestReloadRemovedIsBounded(t *testing.T) {
	backends := startBackends(t, 2)
	d, file := startDeclared(t, Config{}, oneBackend, "a", backends[0].Addr())
	stream := openChat(t, connect(t, d))
	file.set("drain: {removed: 10ms}\n"+oneBackend, "b", backends[1].Addr())
	reload(t, d)
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the call ends with %v, want Unavailable", err)
	}
}

// Other limits hold for new connections; who is let in, for all: clients connect anew.
func TestReloadSettings(t *testing.T) {
	authority := certtest.New(t)
	pair := authority.Issue(t, "127.0.0.1")
	backend := startBackends(t, 1)[0]
	address := socket(t, "f")
	const text = `
frontends: [{name: f, listen: "%s"%s}]
backends: {b: {endpoints: ["%s"]}}
routes: [{backend: b}]
`
	d, file := startDeclared(t, Config{}, text, address, "", backend.Addr())
	conn := connect(t, d)
	stream := openChat(t, conn)
	large := &samplepb.EchoRequest{Payload: make([]byte, 2000)}
	call := func(client samplepb.EchoServiceClient) error {
		_, err := client.Echo(callContext(t), large)
		return err
	}

	file.set(text, address, ", limits: {max_request_message: 1KiB}", backend.Addr())
	reload(t, d)
	if err := call(samplepb.NewEchoServiceClient(conn)); err != nil {
		t.Errorf("a connection of before has the new limit: %v", err)
	}
	if err := call(samplepb.NewEchoServiceClient(connect(t, d))); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a new connection: %v, want the new limit", err)
	}

	file.set(text, address, fmt.Sprintf(", tls: {certificates: [{cert: %q, key: %q}]}", pair.CertFile, pair.KeyFile), backend.Addr())
	reload(t, d)
	var err error
	for end := time.Now().Add(testTimeout); err == nil && time.Now().Before(end); { // until the client has heard of it
		err = call(samplepb.NewEchoServiceClient(conn))
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("plaintext after TLS was asked for: %v", err)
	}
	secure := connectWith(t, d, credentials.NewTLS(&tls.Config{RootCAs: authority.Pool, ServerName: "127.0.0.1"}))
	if err := call(samplepb.NewEchoServiceClient(secure)); err != nil {
		t.Errorf("TLS: %v", err)
	}
	talk(t, stream, "of before") // its call goes on
}

// A reload reads authorities anew, of clients and of endpoints.
func TestReloadAuthorities(t *testing.T) {
	old, renewed := certtest.New(t), certtest.New(t)
	pair := old.Issue(t, "127.0.0.1")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	put := func(from string) {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(ca, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(old.File)
	secure := startBackend(t, loopback, sample.Options{Name: "secure", TLS: &tls.Config{Certificates: []tls.Certificate{renewed.Issue(t, "127.0.0.1").Certificate}}})
	d, _ := startDeclared(t, Config{}, `
frontends: [{name: f, listen: "127.0.0.1:0", tls: {certificates: [{cert: %q, key: %q}], client_ca: %q}}]
backends: {b: {endpoints: ["%s"], tls: {ca: %[3]q}}}
routes: [{backend: b}]
`, pair.CertFile, pair.KeyFile, ca, secure.Addr())
	client := renewed.Issue(t, "client")
	creds := credentials.NewTLS(&tls.Config{RootCAs: old.Pool, Certificates: []tls.Certificate{client.Certificate}})
	if _, err := echo(callContext(t), connectWith(t, d, creds)); status.Code(err) != codes.Unavailable {
		t.Errorf("a client of an unknown authority: %v", err)
	}
	put(renewed.File)
	reload(t, d)
	if name, err := echo(callContext(t), connectWith(t, d, creds)); err != nil || name != "secure" {
		t.Errorf("after the authority came: %q, %v", name, err)
	}
}

// Flags have no file that changes, only files that they name.
func TestReloadFlags(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	conn := connect(t, d)
	before, err := echo(callContext(t), conn)
	if err != nil {
		t.Fatal(err)
	}
	reload(t, d)
	if after, err := echo(callContext(t), conn); err != nil || after != before {
		t.Errorf("answer of %q, %v", after, err)
	}
}

func TestReloadAfterShutdown(t *testing.T) {
	d := startDaemon(t, Config{Endpoints: endpoints(startBackends(t, 1)...)})
	if err := d.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := d.Reload(); !errors.Is(err, errStopped) {
		t.Errorf("error = %v", err)
	}
}

// One frontend is drained while others go on, and is back with the next reload.
func TestDrainFrontend(t *testing.T) {
	one, two := socket(t, "one"), socket(t, "two")
	d, _ := startDeclared(t, Config{}, `
frontends: [{name: one, listen: "%s"}, {name: two, listen: "%s"}]
backends: {b: {endpoints: ["%s"]}}
routes: [{backend: b}]
`, one, two, startBackends(t, 1)[0].Addr())
	other := connectTo(t, d, "two", insecure.NewCredentials())
	stream := openChat(t, connectTo(t, d, "one", insecure.NewCredentials()))

	drained := make(chan error, 1)
	go func() { drained <- d.DrainFrontend(callContext(t), "one") }() // ends with the stream
	for {
		nc, err := net.Dial("unix", one.Addr)
		if err != nil {
			break
		}
		_ = nc.Close()
	}
	talk(t, stream, "still")
	if _, err := echo(callContext(t), other); err != nil {
		t.Errorf("the other frontend: %v", err)
	}
	if err := d.DrainFrontend(callContext(t), "one"); err == nil {
		t.Error("drained twice")
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := result(t, drained); err != nil {
		t.Errorf("drain = %v", err)
	}
	reload(t, d)
	if _, err := echo(callContext(t), connectTo(t, d, "one", insecure.NewCredentials())); err != nil {
		t.Errorf("after the reload: %v", err)
	}
	if len(d.leaving) != 0 {
		t.Errorf("%d frontends leave still", len(d.leaving))
	}
}
