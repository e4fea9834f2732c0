// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package tlsfiles

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/certtest"
	"github.com/manifold-grpc/manifold/internal/config"
)

// copyPair puts a pair's files where others are.
func copyPair(t *testing.T, from certtest.Pair, to config.Certificate) {
	t.Helper()

	for src, dst := range map[string]config.File{from.CertFile: to.Cert, from.KeyFile: to.Key} {
		data, err := os.ReadFile(src)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(string(dst), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func files(dir, name string) config.Certificate {
	return config.Certificate{Cert: config.File(filepath.Join(dir, name+".crt")), Key: config.File(filepath.Join(dir, name+".key"))}
}

// shown returns the certificate that a client is shown for a name.
func shown(t *testing.T, c *Pairs, name string) []byte {
	t.Helper()

	client, server := net.Pipe()
	done := make(chan struct{})
	go func() { // ends with the handshake
		defer close(done)
		_ = tls.Server(server, &tls.Config{GetCertificate: c.ForClient}).Handshake() // the client tells
	}()
	conn := tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	<-done
	_ = client.Close()

	return conn.ConnectionState().PeerCertificates[0].Raw
}

func TestCertificates(t *testing.T) {
	authority := certtest.New(t)
	a, b, renewed := authority.Issue(t, "a.example.com"), authority.Issue(t, "*.b.example.com"), authority.Issue(t, "renewed", "a.example.com")
	dir := t.TempDir()
	copyPair(t, authority.Issue(t, "old"), files(dir, "a"))
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	c, err := LoadPairs([]config.Certificate{files(dir, "a"), {Cert: config.File(b.CertFile), Key: config.File(b.KeyFile)}}, log)
	if err != nil {
		t.Fatal(err)
	}
	c.interval = time.Hour
	copyPair(t, a, files(dir, "a"))
	if bytes.Equal(shown(t, c, "a.example.com"), a.Leaf.Raw) {
		t.Error("files are looked at again before the interval is over")
	}

	c.interval = 0
	for name, want := range map[string]certtest.Pair{"a.example.com": a, "x.b.example.com": b, "other.com": a, "": a} {
		if !bytes.Equal(shown(t, c, name), want.Leaf.Raw) {
			t.Errorf("for %q not the certificate of %s", name, want.Leaf.Subject)
		}
	}

	if err := os.WriteFile(string(files(dir, "a").Cert), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if !bytes.Equal(shown(t, c, "a.example.com"), a.Leaf.Raw) {
			t.Error("with garbage in the file, not the certificate before")
		}
	}
	if n := strings.Count(text.String(), "cannot be loaded"); n != 1 {
		t.Errorf("garbage is told of %d times:\n%s", n, text.String())
	}
	copyPair(t, renewed, files(dir, "a"))
	if !bytes.Equal(shown(t, c, "a.example.com"), renewed.Leaf.Raw) {
		t.Error("after the garbage, not the renewed certificate")
	}
	if own, err := c.ForServer(nil); err != nil || !bytes.Equal(own.Leaf.Raw, renewed.Leaf.Raw) {
		t.Errorf("towards servers not the first certificate, %v", err)
	}
}
