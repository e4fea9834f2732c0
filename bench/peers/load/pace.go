// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package load

import "time"

// perClient is the time to start a client's goroutine. The first call is due after all have.
const perClient = 5 * time.Microsecond

// pace has calls begin at a fixed rate, on one client after the other.
type pace struct {
	clients []*client
	first   int // client of the first call
	calls   int
	every   time.Duration // between two calls
	length  time.Duration // of the run
	// due has for each client the moments at which calls are due.
	due   map[*client]chan time.Time
	start time.Time
}

func newPace(clients []*client, first int, d time.Duration) *pace {
	rate := clients[0].plan.Rate
	p := &pace{
		clients: clients, first: first,
		calls: max(1, int(int64(rate)*int64(d)/int64(time.Second))), every: time.Second / time.Duration(rate), length: d,
		due: make(map[*client]chan time.Time, len(clients)),
	}
	for _, c := range clients {
		// Room for all that may become due: who makes them so must not wait for a client.
		p.due[c] = make(chan time.Time, p.calls/len(clients)+1)
	}
	return p
}

// begin starts to make calls due. The function that it returns waits until the last one is.
func (p *pace) begin() (wait func()) {
	done := make(chan struct{})
	p.start = time.Now().Add(time.Millisecond + time.Duration(len(p.clients))*perClient)
	go func() { // ends after the last call, at the run's end
		defer close(done)
		for i := range p.calls {
			at := p.start.Add(time.Duration(i) * p.every)
			time.Sleep(time.Until(at))
			p.due[p.clients[(p.first+i)%len(p.clients)]] <- at
		}
		for _, due := range p.due {
			close(due)
		}
	}()
	return func() { <-done }
}

// run makes a client's calls when they are due.
func (p *pace) run(c *client) (calls int, err error) {
	c.calls, c.latency = 0, histogram{}
	deadline := p.start.Add(p.length + patience)
	for at := range p.due[c] {
		if err := c.conn.SetDeadline(deadline); err != nil {
			return c.calls, err
		}
		if err := c.one(at); err != nil {
			return c.calls, err
		}
	}
	return c.calls, nil
}

// one makes a call that is due at a moment which may have passed.
func (c *client) one(at time.Time) error {
	c.conn.Tick()
	c.end, c.active = c.conn.Now(), 0
	if err := c.start(c.conn.Now() - time.Since(at)); err != nil {
		return err
	}
	return c.conn.Serve(func() bool { return c.active == 0 })
}
