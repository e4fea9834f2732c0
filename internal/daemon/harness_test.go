// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
	"github.com/manifold-grpc/manifold/relay"
)

// testTimeout bounds every wait of these tests.
const testTimeout = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loopback is any free port.
var loopback = Address{Network: "tcp", Addr: "127.0.0.1:0"}

// startBackends runs n sample backends, called "0", "1" and so on.
func startBackends(t *testing.T, n int) []*sample.Backend {
	t.Helper()

	var backends []*sample.Backend
	for i := range n {
		backends = append(backends, startBackend(t, loopback, sample.Options{Name: fmt.Sprint(i)}))
	}

	return backends
}

func startBackend(t *testing.T, address Address, opts sample.Options) *sample.Backend {
	t.Helper()

	lis, err := net.Listen(address.Network, address.Addr)
	if err != nil {
		t.Fatal(err)
	}
	b := sample.Start(lis, opts)
	t.Cleanup(b.Stop)

	return b
}

// endpoints are those of plaintext backends.
func endpoints(backends ...*sample.Backend) []Endpoint {
	var all []Endpoint
	for _, b := range backends {
		addr := b.Addr()
		all = append(all, Endpoint{Address: Address{Network: addr.Network(), Addr: addr.String()}})
	}

	return all
}

// startDaemon runs a daemon, on any free port by default. The test's end stops
// it, unless the test has done that.
func startDaemon(t *testing.T, cfg Config) *Daemon {
	t.Helper()

	if cfg.Listen == (Address{}) && cfg.File == nil && cfg.Load == nil {
		cfg.Listen = loopback
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-d.Done():
		default:
			shutdown(t, d)
		}
	})

	return d
}

// shutdown stops d at once.
func shutdown(t *testing.T, d *Daemon) {
	t.Helper()

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Shutdown(ctx); err != nil {
		if _, ok := errors.AsType[*CutError](err); !ok {
			t.Errorf("shutdown: %v", err)
		}
	}
}

// connect returns a plaintext connection to d.
func connect(t *testing.T, d *Daemon) *grpc.ClientConn {
	t.Helper()

	return connectWith(t, d, insecure.NewCredentials())
}

func connectWith(t *testing.T, d *Daemon, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()

	target := "passthrough:///" + d.Addr().Addr
	if d.Addr().Network == "unix" {
		target = "unix:" + d.Addr().Addr
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // a test may have closed it

	return conn
}

// callContext is for calls of a test: none may hang.
func callContext(t *testing.T) context.Context {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)

	return ctx
}

// echo makes one call and returns the name of the backend that answered.
func echo(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	resp, err := samplepb.NewEchoServiceClient(conn).Echo(ctx, &samplepb.EchoRequest{Text: "hi"})

	return resp.GetBackend(), err
}

// openChat opens a call that stays in flight until its caller ends it.
func openChat(t *testing.T, conn *grpc.ClientConn) grpc.BidiStreamingClient[samplepb.EchoRequest, samplepb.EchoResponse] {
	t.Helper()

	stream, err := samplepb.NewEchoServiceClient(conn).Chat(callContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // then it is at a backend
		t.Fatal(err)
	}

	return stream
}

// wait waits for c to be closed.
func wait(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()

	select {
	case <-c:
	case <-time.After(testTimeout):
		t.Fatalf("%s: not within %v", what, testTimeout)
	}
}

// logBuffer is a log to look into while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.buf.String()
}

func (b *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// endpointOf returns an endpoint of the daemon's only backend.
func endpointOf(d *Daemon, i int) *relay.Endpoint {
	for _, b := range d.world.Load().upstreams {
		return b.Endpoints()[i].Relay
	}

	return nil
}

// within tries with a second, and with more where it fails: a busy machine may take longer to bring a call there and back than
// its deadline lets it, but what is wrong is so with any deadline.
func within(t *testing.T, try func(d time.Duration) error) {
	t.Helper()
	var err error
	for _, d := range []time.Duration{time.Second, 4 * time.Second, 16 * time.Second} {
		if err = try(d); err == nil {
			return
		}
	}
	t.Error(err)
}
