// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package dnstest is a name server for tests.
package dnstest

import (
	"net"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Serve answers one name, which ends with a dot, with the IPv4 addresses of now, over UDP on a loopback port until the test
// ends, and returns the address of that. Other names have none. addrs is called from another goroutine.
func Serve(t *testing.T, name string, addrs func() [][4]byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends with the socket
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA && q.Name.String() == name {
				for _, a := range addrs() {
					m.Answers = append(m.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: a},
					})
				}
			}
			if out, err := m.Pack(); err == nil {
				conn.WriteTo(out, from) //nolint:errcheck // it is asked again
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })

	return conn.LocalAddr().String()
}
