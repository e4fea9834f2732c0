// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/rawpeer"
	"github.com/manifold-grpc/manifold/relay"
)

// A slowClient sends what it has octet by octet, so that it never is complete, and is ended all the same.
type slowClient struct {
	name string

	// begin is sent at once, and then one piece a second, over and over.
	begin  string
	pieces []string

	// tls says that the relay expects TLS.
	tls bool

	// mute clients answer nothing.
	mute bool

	// from and to are when the relay must end the connection.
	from, to time.Duration
}

func slowClients() []slowClient {
	preface := http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	open := string(headersFrame(1, rawpeer.Request("/a.B/C")...))
	deadline := string(headersFrame(1, rawpeer.Request("/a.B/C", "grpc-timeout", "20S")...))
	data := string(frameOctets(http2.FrameData, 0, 1, "x"))
	return []slowClient{
		{name: "TLS: nothing", tls: true, from: 5 * time.Second, to: 5 * time.Second},
		// A record of 16 KiB that holds a handshake message without end.
		{name: "TLS: hello", begin: "\x16\x03\x01\x40\x00\x01\x00\x3f\xfc", pieces: []string{"\x03"}, tls: true, from: 5 * time.Second, to: 5 * time.Second},
		{name: "nothing", from: 10 * time.Second, to: 10 * time.Second},
		{name: "preface", pieces: strings.Split(http2.ClientPreface, ""), from: 10 * time.Second, to: 10 * time.Second},
		{name: "preface, then nothing", begin: http2.ClientPreface, from: 10 * time.Second, to: 12 * time.Second},
		{name: "SETTINGS", begin: http2.ClientPreface + "\x00\x02\x58\x04\x00\x00\x00\x00\x00", pieces: []string{"\x00"}, from: 10 * time.Second, to: 12 * time.Second},
		{name: "HEADERS", begin: preface + "\x00\x40\x00\x01\x04\x00\x00\x00\x01", pieces: []string{"\x82"}, from: 10 * time.Second, to: 12 * time.Second},
		{name: "HEADERS beside a call", begin: preface + open + "\x00\x40\x00\x01\x04\x00\x00\x00\x03", pieces: []string{"\x82"}, from: 10 * time.Second, to: 12 * time.Second},
		{name: "CONTINUATION", begin: preface + open + "\x00\x00\x00\x01\x00\x00\x00\x00\x03", pieces: []string{"\x00\x00\x01\x09\x00\x00\x00\x00\x03\x82"}, from: 10 * time.Second, to: 12 * time.Second},
		{name: "no call", begin: preface, from: 5 * time.Minute, to: 5*time.Minute + 5*time.Second},
		{name: "body, and no sign of life", begin: preface + open, mute: true, from: 2*time.Minute + 20*time.Second, to: 2*time.Minute + 25*time.Second},
		{name: "body", begin: preface + open, pieces: []string{data}, from: 54 * time.Minute, to: 72 * time.Minute},
		{name: "body, deadline", begin: preface + deadline, pieces: []string{data}, from: 5*time.Minute + 20*time.Second, to: 5*time.Minute + 25*time.Second},
		{name: "HTTP/1.1 headers", begin: "GET / HTTP/1.1\r\n", pieces: []string{"a"}, from: 10 * time.Second, to: 20 * time.Second},
	}
}

// Whoever sends as slowly as can be is ended by the limit of the stage that it keeps the relay in.
func TestSlowloris(t *testing.T) {
	cert := certtest.New(t).Issue(t, "front").Certificate
	for _, c := range slowClients() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { c.run(t, cert) })
		})
	}
}

func (c slowClient) run(t *testing.T, cert tls.Certificate) {
	m := inMemory(t, rigConfig{server: func(s *relay.Server) {
		if c.tls {
			s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
		}
	}}, nil, silent)
	nc := must(m.front.DialContext(t.Context()))(t)
	defer nc.Close()
	begin := time.Now()
	ended := make(chan time.Duration, 1)
	go func() { // ends with the connection
		if c.mute {
			io.Copy(io.Discard, nc) //nolint:errcheck // its end is what counts
		} else {
			answerPings(nc)
		}
		ended <- time.Since(begin)
	}()
	io.WriteString(nc, c.begin) //nolint:errcheck // its end is what counts
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case took := <-ended:
			t.Logf("ended after %v", took)
			if took < c.from || took > c.to {
				t.Errorf("the connection ended after %v, want %v to %v", took, c.from, c.to)
			}
			return
		case <-tick.C:
			if n := len(c.pieces); n > 0 {
				io.WriteString(nc, c.pieces[i%n]) //nolint:errcheck // its end is what counts
			}
		}
		if time.Since(begin) > 2*time.Hour {
			t.Fatal("the connection goes on for ever")
		}
	}
}

// answerPings reads frames until the connection ends, and answers PINGs.
func answerPings(nc net.Conn) {
	fr := http2.NewFramer(nc, nc)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			io.Copy(io.Discard, nc) //nolint:errcheck // no HTTP/2, then
			return
		}
		if p, ok := f.(*http2.PingFrame); ok && !p.IsAck() {
			fr.WritePing(true, p.Data) //nolint:errcheck // its end is what counts
		}
	}
}
