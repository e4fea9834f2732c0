// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package connect

import (
	"bytes"
	"io"
	"testing"
)

func TestMessageFields(t *testing.T) {
	t.Parallel()
	m := message(nil).withBytes(1, []byte("host")).withVarint(2, 80).withBytes(9, []byte("kept")).withVarint(2, 443)
	if got := string(m.bytes(1)); got != "host" {
		t.Errorf("field 1 = %q, want host", got)
	}
	if got := m.varint(2); got != 443 {
		t.Errorf("field 2 = %d, want what was set last, 443", got)
	}
	rest := m.without(1, 2)
	if got := string(rest.bytes(9)); got != "kept" || rest.bytes(1) != nil || rest.varint(2) != 0 {
		t.Errorf("without 1 and 2: field 9 = %q, 1 = %q, 2 = %d", got, rest.bytes(1), rest.varint(2))
	}
	if got := m[:len(m)-1].varint(2); got != 0 {
		t.Errorf("field 2 of a message that breaks off in it = %d, want 0", got)
	}
}

func TestMessageFraming(t *testing.T) {
	t.Parallel()
	var stream bytes.Buffer
	for _, m := range []message{message("one"), {}, message("three")} {
		if err := writeMessage(&stream, m); err != nil {
			t.Fatal(err)
		}
	}
	broken := bytes.NewReader(stream.Bytes()[:stream.Len()-1])
	for _, want := range []string{"one", "", "three"} {
		m, err := readMessage(&stream)
		if err != nil || string(m) != want {
			t.Fatalf("read %q, %v; want %q", m, err, want)
		}
	}
	if _, err := readMessage(&stream); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
	_, _ = readMessage(broken)
	_, _ = readMessage(broken)
	if _, err := readMessage(broken); err == nil || err == io.EOF {
		t.Errorf("in the midst of a message: %v, want an error that is not io.EOF", err)
	}
}

func TestMessageTooLong(t *testing.T) {
	t.Parallel()
	if _, err := readMessage(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff})); err == nil {
		t.Error("a message of 4 GiB was accepted")
	}
}
