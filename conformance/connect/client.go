// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/manifold-grpc/manifold/conformance/undertest"
)

// A Client is what the suite's runner takes for a client under test: one of the
// suite's own clients, sent to the proxy where the runner named a server. The
// runner starts one process, which reads a stream of calls to make from stdin
// and writes what came of each to stdout.
type Client struct {
	Start   undertest.Start
	Program string // the suite's client
}

// Run serves until the calls end or ctx is done.
func (c Client) Run(ctx context.Context, in io.Reader, out, log io.Writer) error {
	identity, err := undertest.NewIdentity()
	if err != nil {
		return err
	}
	p := proxies{start: c.Start, identity: identity, addrs: map[string]string{}}
	defer p.stop()
	cmd := child(ctx, c.Program, log)
	cmd.Stdout = out // results are of no concern here
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = p.redirect(in, stdin)
	if err != nil {
		_ = cmd.Cancel()
	}
	return errors.Join(err, stdin.Close(), cmd.Wait())
}

// proxies are those of one client: one for each server that its calls name,
// since a server and its certificates are part of a proxy's configuration.
type proxies struct {
	start    undertest.Start
	identity *undertest.Identity // what all show to the client
	addrs    map[string]string   // by server
	stops    []func()
}

// redirect copies calls from in to out and puts a proxy into the place of the
// server of each.
func (p *proxies) redirect(in io.Reader, out io.Writer) error {
	for {
		call, err := readMessage(in)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("calls of the runner: %w", err)
		}
		addr, err := p.addr(call)
		if err != nil {
			return err
		}
		if call, err = withAddress(call, addr, clientRequestHost, clientRequestPort); err != nil {
			return err
		}
		if call.bytes(clientRequestCert) != nil {
			call = call.withBytes(clientRequestCert, p.identity.Cert)
		}
		if err := writeMessage(out, call); err != nil {
			return fmt.Errorf("passing a call on: %w", err)
		}
	}
}

// addr returns the address of the proxy before the call's server, and starts it
// if there is none yet.
func (p *proxies) addr(call message) (string, error) {
	server := address(call, clientRequestHost, clientRequestPort)
	cert, creds := call.bytes(clientRequestCert), message(call.bytes(clientRequestCreds))
	key := fmt.Sprintf("%s %x %x", server, cert, creds)
	if addr, ok := p.addrs[key]; ok {
		return addr, nil
	}
	config := undertest.Config{Backends: []string{server}}
	if cert != nil {
		config.Identity, config.BackendCA = p.identity, cert
	}
	if creds != nil {
		// The client shows its certificate to the proxy, and the proxy the same
		// one to the server.
		config.ClientCA = creds.bytes(credsCert)
		config.BackendIdentity = &undertest.Identity{Cert: creds.bytes(credsCert), Key: creds.bytes(credsKey)}
	}
	addr, stop, err := p.start(config)
	if err != nil {
		return "", fmt.Errorf("proxy before %s: %w", server, err)
	}
	p.addrs[key], p.stops = addr, append(p.stops, stop)
	return addr, nil
}

func (p *proxies) stop() {
	for _, stop := range p.stops {
		stop()
	}
}
