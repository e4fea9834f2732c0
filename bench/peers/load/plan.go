// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package load is the client before the proxies: a process that keeps a number of
// calls going over a number of connections, checks payload, headers, status and trailers of
// each, and costs little: see package wire.
package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/manifold-grpc/manifold/bench/peers/backend"
	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

// Call is a kind of call.
type Call struct {
	// Size of each message, in octets; at least [wire.MinMessage].
	Size int
	// Trips is the number of messages sent, each after the answer to the one before.
	Trips int
	// Pull is the number of messages that the one request message is answered with;
	// 0 means that the answer is an echo. Not with Trips above 1.
	Pull int
	// Timeouts gives each call a grpc-timeout of its own.
	Timeouts bool
	// Hold keeps a call open after the first answer, for ever.
	Hold bool
}

// answers is the number of messages that a call is answered with.
func (c Call) answers() int { return max(c.Trips, c.Pull) }

func (c Call) path() string {
	switch {
	case c.Pull > 0:
		return backend.PathPull
	case c.Timeouts:
		return backend.PathTimed
	}
	return backend.PathEcho
}

func (c Call) check() error {
	if c.Size < wire.MinMessage || c.Size > wire.MaxMessage || c.Trips < 1 || c.Pull > 0 && c.Trips > 1 {
		return fmt.Errorf("no such kind of call: %+v", c)
	}
	return nil
}

// Plan is a load.
type Plan struct {
	Addr        string
	CA          string // file with the authority of the proxy's certificate; empty means plaintext
	Connections int
	Streams     int // calls that run at once on each connection
	Call        Call
	Join        int // octets that are gathered for a write: see [wire.DefaultJoin]
	// Rate is how many calls begin in a second, on the connections in turn, however long
	// those before them take. A connection has one at a time: the next one waits for it, and that
	// counts as its own time. 0 means that each of Streams calls begins when one ends.
	Rate int
	// Read is how many octets a second are read from each connection, in a plan for Beside.
	Read int
}

// first is how many calls each connection makes when it is opened, one after the other:
// held ones begin then. At a fixed rate over many connections few would have made more than one
// in a run, and would cost what first calls do: compression of headers has learnt what
// repeats only after two or three, and what proxies remember of it comes with the next.
func (p Plan) first() int {
	if p.Call.Hold {
		return 1
	}
	return 6
}

// Request is what a load's process is asked; one field is set.
type Request struct {
	// Open opens the connections of a plan, beside those that are open, and for calls that
	// are held the calls too.
	Open *Plan `json:",omitempty"`
	// Beside opens the connections and begins the calls of a plan that go on beside those
	// of Run, count for nothing, and are read slowly or not at all.
	Beside *Plan `json:",omitempty"`
	// Run makes calls for the given time, and until the last one ends, and answers
	// with a Result.
	Run time.Duration `json:",omitempty"`
	// Close closes all connections.
	Close bool `json:",omitempty"`
}

// Result is what a run has measured.
type Result struct {
	Calls    int
	Wall     time.Duration
	P50, P99 time.Duration // of a call, from its first octet, or when that was due, to its trailers
}

// Role is a load as a process. It takes no configuration.
func Role(_ json.RawMessage, session *child.Session) error { return serve(session, &Generator{}) }

// generator is a Generator, or another that does as it does.
type generator interface {
	Open(Plan) error
	Beside(Plan) error
	Run(time.Duration) (Result, error)
	Close()
}

// serve has g do what it is asked.
func serve(session *child.Session, g generator) error {
	defer g.Close()
	return session.Serve(nil, func(text json.RawMessage) (any, error) {
		var r Request
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, err
		}
		switch {
		case r.Open != nil:
			return nil, g.Open(*r.Open)
		case r.Beside != nil:
			return nil, g.Beside(*r.Beside)
		case r.Run > 0:
			return g.Run(r.Run)
		case r.Close:
			g.Close()
			return nil, nil
		}
		return nil, errors.New("empty request")
	})
}
