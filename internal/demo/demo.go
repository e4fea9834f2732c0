// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package demo shows what the proxy does: it starts three sample backends on TCP
// ports, a whole daemon in front of them that runs on a configuration file, makes calls, and writes down what went
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
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/daemon"
	"github.com/manifold-grpc/manifold/internal/sample"
	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
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
	// ShowConfig adds the configuration file that the proxy runs on to what is shown.
	ShowConfig bool
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

	text := configuration(opts.Listen, backends)
	d, addr, err := startProxy(text)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopProxy(d)) }()

	p := &printer{out: out}
	p.setting(addr, backends)
	if opts.ShowConfig {
		p.configuration(text)
	}
	if err := show(ctx, p, addr); err != nil {
		return err
	}

	if opts.Keep != nil {
		p.tryIt(addr)
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

// file is the configuration file of the demo: EchoService is balanced, FleetService is fanned out. In layout are the
// fields of NodeMetadata in sample.proto.
const file = `frontends:
  - {name: demo, listen: %q}
backends:
  sample:
    endpoints: [%s]
    health: {}
routes:
  - match: {service: manifold.sample.v1.FleetService}
    fan_out:
      backend: sample
      unary: [Describe]
      layout: {element: 1, metadata: 99, hostname: 1, error: 2, status: 3}
  - {backend: sample}
`

// configuration returns the text of the file for these addresses.
func configuration(listen daemon.Address, backends []*sample.Backend) string {
	var endpoints []string
	for _, b := range backends {
		endpoints = append(endpoints, strconv.Quote(b.Addr().String()))
	}

	return fmt.Sprintf(file, listen, strings.Join(endpoints, ", "))
}

// startProxy starts a daemon with a configuration file of this text.
func startProxy(text string) (*daemon.Daemon, daemon.Address, error) {
	cfg, err := config.Source{Name: "demo.yaml"}.Parse([]byte(text))
	if err != nil {
		return nil, daemon.Address{}, err
	}
	d, err := daemon.New(daemon.Config{File: cfg})
	if err != nil {
		return nil, daemon.Address{}, err
	}
	if err := d.Start(); err != nil {
		return nil, daemon.Address{}, err
	}
	addr, _ := d.AddrOf("demo")

	return d, addr, nil
}

// stopProxy drains, which takes no time when the calls have gone well: none are left.
func stopProxy(d *daemon.Daemon) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()

	return d.Shutdown(ctx)
}

// target returns an address in grpc-go's words.
func target(a daemon.Address) string {
	if a.Network == "unix" {
		return "unix:" + a.Addr
	}

	return "passthrough:///" + a.Addr
}
