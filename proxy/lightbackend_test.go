// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// startLightBackend runs a server that answers every call with one message when the request has ended, and returns its address. It
// serves a connection with one goroutine and keeps nothing of a stream, for tests whose load is not to be that of the backends.
func startLightBackend(t testing.TB, message string) string {
	t.Helper()

	l, addr := listen(t)

	var running sync.WaitGroup

	t.Cleanup(running.Wait)
	t.Cleanup(func() { _ = l.Close() })

	running.Go(func() { // ends when the listener is closed
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}

			running.Go(func() { // ends when the test closes the client's connection
				defer func() { _ = conn.Close() }()

				if err := serveLight(conn, message); err != nil {
					t.Logf("light backend: %v", err)
				}
			})
		}
	})

	return addr
}

// serveLight answers what comes on one connection until that ends.
func serveLight(conn net.Conn, message string) error {
	in, out := bufio.NewReader(conn), bufio.NewWriter(conn)

	if _, err := io.CopyN(io.Discard, in, int64(len(http2.ClientPreface))); err != nil {
		return nil // a connection that nobody used
	}

	framer := http2.NewFramer(out, in)
	framer.SetReuseFrames()

	if err := framer.WriteSettings(); err != nil {
		return err
	}

	header := headerBlock(":status", "200", "content-type", "application/grpc")
	data := append([]byte{0, 0, 0, 0, byte(len(message))}, message...)
	trailer := headerBlock("grpc-status", "0")

	for {
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return nil // the client has closed the connection
			}
		}

		frame, err := framer.ReadFrame()
		if err != nil {
			return nil // likewise
		}

		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = framer.WritePing(true, f.Data)
			}
		case *http2.DataFrame:
			err = framer.WriteWindowUpdate(0, max(1, f.Length))
			if err == nil && f.StreamEnded() {
				err = writeLight(framer, f.StreamID, header, data, trailer)
			}
		}

		if err != nil {
			return err
		}
	}
}

// writeLight writes a whole answer.
func writeLight(framer *http2.Framer, id uint32, header, data, trailer []byte) error {
	err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: header, EndHeaders: true})
	if err == nil {
		err = framer.WriteData(id, false, data)
	}

	if err == nil {
		err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: trailer, EndHeaders: true, EndStream: true})
	}

	return err
}

// headerBlock encodes fields, given as names and values, so that the block means the same wherever it comes.
func headerBlock(fields ...string) []byte {
	var b bytes.Buffer

	e := hpack.NewEncoder(&b)

	for i := 0; i < len(fields); i += 2 {
		// Sensitive fields do not enter the table of either side.
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true}) // to memory
	}

	return b.Bytes()
}
