// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/sample/samplepb"
)

// A file is reloaded when it changes and on SIGHUP, and systemd hears of it.
func TestServeReload(t *testing.T) {
	ctx := testContext(t)
	bus := notifications(t)
	one, oneAddr := startSample(ctx, t, "one")
	two, twoAddr := startSample(ctx, t, "two")
	file := filepath.Join(t.TempDir(), "manifold.yaml")
	write := func(text string, args ...any) {
		t.Helper()
		if err := os.WriteFile(file+".new", fmt.Appendf(nil, text, args...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	const text = `
frontends: [{name: f, listen: "127.0.0.1:0"}]
backends: {%s: {endpoints: ["%s"]}}
routes: [{backend: %[1]s}]
drain: {timeout: 1ms}
`
	write(text, "one", oneAddr)
	proxy := start(t, discard{}, "serve", "--config", file, "--log-format", "json")
	c := client(t, proxy.address(ctx, t))
	wants := func(name string) {
		t.Helper()
		if resp, err := c.Echo(ctx, &samplepb.EchoRequest{}); err != nil || resp.GetBackend() != name {
			t.Errorf("answer of %q, %v; want %s", resp.GetBackend(), err, name)
		}
	}
	wants("one")
	bus.wants(t, "READY=1")

	write(text, "two", twoAddr)
	proxy.line(ctx, t, `"msg":"reloaded"`)
	wants("two")
	bus.wants(t, "RELOADING=1\nMONOTONIC_USEC=")
	bus.wants(t, "READY=1")

	write("frontends: [{name: f, listen: 1}]\nx: 1\n")
	for _, want := range []string{":1:31:", `unknown key \"x\"`, "reload failed"} {
		proxy.line(ctx, t, want)
	}
	wants("two")
	bus.wants(t, "RELOADING=1")
	bus.wants(t, "READY=1")
	proxy.signals <- syscall.SIGHUP
	proxy.line(ctx, t, "reload failed")
	bus.wants(t, "RELOADING=1")
	bus.wants(t, "READY=1")

	stream := chat(ctx, t, c)
	proxy.signals <- syscall.SIGTERM
	bus.wants(t, "STOPPING=1")
	proxy.signals <- syscall.SIGHUP // is no second signal
	if line := proxy.line(ctx, t, "calls cut off"); !strings.Contains(line, "drain.timeout 1ms") {
		t.Errorf("log = %q, want the time of the file", line)
	}
	if code := proxy.wait(ctx, t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the call goes on")
	}
	one.end(ctx, t)
	two.end(ctx, t)
}

// sdbus is what is told to systemd.
type sdbus struct{ net.PacketConn }

func notifications(t *testing.T) sdbus {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	c, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)

	return sdbus{c}
}

// wants reads one notification.
func (b sdbus) wants(t *testing.T, prefix string) {
	t.Helper()
	p := make([]byte, 1000)
	if err := b.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, _, err := b.ReadFrom(p)
	if err != nil || !strings.HasPrefix(string(p[:n]), prefix) {
		t.Errorf("systemd hears %q, %v; want %q", p[:n], err, prefix)
	}
}
