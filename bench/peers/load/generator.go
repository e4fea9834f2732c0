// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

// patience is how long a proxy may take for what should be done at once, before it
// counts as hanging.
const patience = 15 * time.Second

// cipherSuite is the one that all proxies are told to use, as their defaults differ.
const cipherSuite = tls.TLS_AES_128_GCM_SHA256

// Generator is a load. The zero value has no connections. It is for one goroutine.
type Generator struct {
	clients []*client
	next    int // client that the next call with a Rate is due at
	beside  []*slow
}

// Open opens the connections of a plan.
func (g *Generator) Open(p Plan) error {
	if err := p.Call.check(); err != nil {
		return err
	}
	for range p.Connections {
		c, err := open(p, uint64(len(g.clients)))
		if err != nil {
			return fmt.Errorf("connection %d: %w", len(g.clients)+1, err)
		}
		g.clients = append(g.clients, c)
		if !p.Call.Hold && p.Rate == 0 {
			continue
		}
		for range c.plan.first() {
			if _, err := c.run(0); err != nil {
				return fmt.Errorf("connection %d: %w", len(g.clients), err)
			}
		}
	}
	return nil
}

func open(p Plan, number uint64) (*client, error) {
	nc, err := dial(p)
	if err != nil {
		return nil, err
	}
	return openOver(nc, p, number)
}

// openOver makes a client of a connection, which it closes if that fails.
func openOver(nc net.Conn, p Plan, number uint64) (*client, error) {
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		_ = nc.Close()
		return nil, err
	}
	c := newClient(p, number)
	var err error
	if c.conn, err = wire.NewClient(nc, c, p.Join); err != nil {
		return nil, err
	}
	if most := c.conn.MaxStreams(); uint64(most) < uint64(p.Streams) {
		c.conn.Close()
		return nil, fmt.Errorf("proxy allows %d streams, expected at least %d", most, p.Streams)
	}
	return c, nil
}

func dial(p Plan) (net.Conn, error) {
	nc, err := net.DialTimeout("tcp", p.Addr, patience)
	if err != nil || p.CA == "" {
		return nc, err
	}
	c, err := startTLS(nc, p.CA)
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return c, nil
}

func startTLS(nc net.Conn, ca string) (net.Conn, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS13}
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", ca)
	}
	c, err := wire.StartTLS(nc, cfg)
	if err != nil {
		return nil, err
	}
	if s := c.ConnectionState(); s.CipherSuite != cipherSuite || s.NegotiatedProtocol != "h2" {
		return nil, fmt.Errorf("proxy chose %s and protocol %q, expected %s and h2",
			tls.CipherSuiteName(s.CipherSuite), s.NegotiatedProtocol, tls.CipherSuiteName(cipherSuite))
	}
	return c, nil
}

// Run keeps calls going on all connections for d, and waits for the last one.
func (g *Generator) Run(d time.Duration) (Result, error) {
	r, err := g.run(d)
	for _, s := range g.beside {
		if berr := s.failed(); err == nil && berr != nil {
			err = fmt.Errorf("client beside: %w", berr)
		}
	}
	return r, err
}

func (g *Generator) run(d time.Duration) (Result, error) {
	each, begin := func(c *client) (int, error) { return c.run(d) }, time.Now()
	if len(g.clients) > 0 && g.clients[0].plan.Rate > 0 {
		p := newPace(g.clients, g.next, d)
		each = p.run
		defer p.begin()()
		begin = p.start
		g.next = (g.next + p.calls) % len(g.clients)
	}
	var (
		latency histogram
		running sync.WaitGroup
		mu      sync.Mutex
		calls   int   // guarded by mu
		failed  error // guarded by mu
	)
	for _, c := range g.clients {
		running.Go(func() { // ends when the calls have, or at the connection's deadline
			n, err := each(c)
			mu.Lock()
			defer mu.Unlock()
			calls += n
			latency.add(&c.latency)
			if failed == nil {
				failed = err
			}
		})
	}
	running.Wait()
	wall := time.Since(begin)
	if failed == nil && calls == 0 {
		failed = errors.New("no call was made")
	}
	return Result{calls, wall, latency.quantile(0.5), latency.quantile(0.99)}, failed
}

// Close closes all connections.
func (g *Generator) Close() {
	for _, c := range g.clients {
		c.conn.Close()
	}
	for _, s := range g.beside {
		s.close()
	}
	g.clients, g.next, g.beside = nil, 0, nil
}
