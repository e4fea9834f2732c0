// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package demo shows what the proxy does: it starts three sample backends on TCP
// ports, a whole daemon in front of them, makes calls, and writes down what went
// where.
//
// Nothing in it is played: the calls are made over one TCP connection to the
// daemon, and every line of the result is taken from an answer.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/manifold-grpc/manifold/internal/daemon"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
	"github.com/manifold-grpc/manifold/proxy/splice"
)

const (
	// timeout bounds the calls of the demo all together.
	timeout = 30 * time.Second
	// stopTimeout bounds the drain at the end.
	stopTimeout = 5 * time.Second
)

// backendNames are what the three backends call themselves.
var backendNames = []string{"one", "two", "three"}

// Options are the choices one has with the demo.
type Options struct {
	// Listen is where the proxy listens. Required; port 0 is any free one.
	Listen daemon.Address
	// Keep, if not nil, leaves everything running after the calls until a signal
	// comes.
	Keep <-chan os.Signal
}

// Run runs the demo and writes what it shows to out. It returns when everything
// it started has stopped; an error means that something did not work as shown.
func Run(ctx context.Context, out io.Writer, opts Options) (err error) {
	backends, err := startBackends()
	defer stopBackends(backends)
	if err != nil {
		return err
	}

	d, err := startProxy(opts.Listen, backends)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopProxy(d)) }()

	p := &printer{out: out}
	p.setting(d.Addr(), backends)
	if err := show(ctx, p, d.Addr()); err != nil {
		return err
	}

	if opts.Keep != nil {
		p.tryIt(d.Addr())
		<-opts.Keep
	}

	return p.err
}

// show makes the calls, over one connection.
func show(ctx context.Context, p *printer, proxy daemon.Address) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	conn, err := grpc.NewClient(target(proxy), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("demo: connect to the proxy: %w", err)
	}
	c := &caller{echo: samplepb.NewEchoServiceClient(conn), fleet: samplepb.NewFleetServiceClient(conn)}

	start := time.Now()
	err = errors.Join(oneToOne(ctx, p, c), oneToMany(ctx, p, c), conn.Close())
	if err != nil {
		return err
	}
	p.printf("\n%d calls over one connection took %v.\n", c.calls, time.Since(start).Round(time.Millisecond))

	return nil
}

// startBackends returns those that it started, also with an error.
func startBackends() ([]*sample.Backend, error) {
	var backends []*sample.Backend
	for _, name := range backendNames {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return backends, fmt.Errorf("demo: backend %q: %w", name, err)
		}
		backends = append(backends, sample.Start(lis, sample.Options{Name: name}))
	}

	return backends, nil
}

func stopBackends(backends []*sample.Backend) {
	for _, b := range backends {
		b.Stop()
	}
}

// startProxy starts a daemon that balances EchoService and fans FleetService out.
func startProxy(listen daemon.Address, backends []*sample.Backend) (*daemon.Daemon, error) {
	cfg := daemon.Config{
		Listen: listen,
		FanOut: daemon.FanOut{
			Services: []string{samplepb.FleetService_ServiceDesc.ServiceName},
			// The fields of NodeMetadata in sample.proto.
			Layout:    splice.Layout{Element: 1, Metadata: 99, Hostname: 1, Error: 2, Status: 3},
			Streaming: streaming,
		},
	}
	for _, b := range backends {
		cfg.Endpoints = append(cfg.Endpoints, daemon.Endpoint{
			Address: daemon.Address{Network: "tcp", Addr: b.Addr().String()},
		})
	}

	d, err := daemon.New(cfg)
	if err != nil {
		return nil, err
	}

	return d, d.Start()
}

// stopProxy drains, which takes no time when the calls have gone well: none are left.
func stopProxy(d *daemon.Daemon) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()

	return d.Shutdown(ctx)
}

// streaming reports whether a method of the sample services streams answers.
func streaming(fullMethod string) bool {
	service, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	services := samplepb.File_internal_sample_samplepb_sample_proto.Services()

	for i := range services.Len() {
		if services.Get(i).FullName() != protoreflect.FullName(service) {
			continue
		}
		if m := services.Get(i).Methods().ByName(protoreflect.Name(method)); m != nil {
			return m.IsStreamingServer()
		}
	}

	return true
}

// target returns an address in grpc-go's words.
func target(a daemon.Address) string {
	if a.Network == "unix" {
		return "unix:" + a.Addr
	}

	return "passthrough:///" + a.Addr
}
