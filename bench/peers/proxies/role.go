// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxies

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/metrics"
	"runtime/pprof"

	"github.com/manifold-grpc/manifold/bench/peers/child"
)

// The roles of the proxies that are made here.
const (
	roleRelay   = "relay"
	roleForward = "forward"
	roleLibrary = "library"
)

// Roles returns the programs of the proxies' processes.
func Roles() map[string]child.Role {
	return map[string]child.Role{
		roleRelay:   role(serveRelay),
		roleForward: role(serveForward),
		roleLibrary: role(serveLibrary),
	}
}

// hello is what a proxy's process starts with.
type hello struct{ Addr string }

// startRole starts a proxy that is made here.
func startRole(name string) func(context.Context, Config) (*Running, error) {
	return func(ctx context.Context, c Config) (*Running, error) {
		var h hello
		process, err := child.Start(ctx, name, c, c.Threads, &h)
		if err != nil {
			return nil, err
		}
		heap := func() (h Heap, err error) { return h, process.Ask(nil, &h) }
		return &Running{Addr: h.Addr, PID: process.PID(), stop: process.Stop, heap: heap}, nil
	}
}

// role turns a function that serves lis until stop is called into a process that
// tells its heap whenever it is asked.
func role(serve func(lis net.Listener, c Config, front *tls.Config) (stop func(), err error)) child.Role {
	return func(text json.RawMessage, session *child.Session) error {
		var c Config
		if err := json.Unmarshal(text, &c); err != nil {
			return err
		}
		front, err := c.TLS.load()
		if err != nil {
			return err
		}
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		stop, err := serve(lis, c, front)
		if err != nil {
			return err
		}
		defer stop()
		end, err := startProfile(c.Profile)
		if err != nil {
			return err
		}
		defer end()
		return session.Serve(hello{lis.Addr().String()}, func(json.RawMessage) (any, error) { return heapNow(), nil })
	}
}

// load reads the certificate; nil gives nil.
func (t *TLS) load() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}, nil
}

func startProfile(file string) (end func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
		if err := writeAllocs(file + ".allocs"); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}, nil
}

// writeAllocs leaves a profile of all that was allocated, freed or not.
func writeAllocs(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}

func heapNow() Heap {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return Heap{s[0].Value.Uint64(), s[1].Value.Uint64()}
}
