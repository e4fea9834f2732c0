// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package proxies starts what the benchmark compares, each as a process of its own
// that forwards everything from a loopback port to one backend:
//
//   - those made here of Go packages (relay.go, library.go, forward.go), which are
//     this program again in another role;
//   - those of the distribution's packages (haproxy.go, nginx.go, nghttpx.go), with a
//     configuration made for the benchmark.
//
// The rules for the configurations: as many threads for each as Config says; no
// access log; limits on the life of connections off; TLS 1.3 with one cipher suite; windows and buffers
// as they come, unless others were measured to cost the proxy less. A line that is there for
// another reason says so.
package proxies

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Config is what a proxy is started with.
type Config struct {
	Backend string // address of the backend, which speaks plaintext HTTP/2
	Dir     string // an empty directory for the proxy's files
	Threads int    // that work on calls at once
	TLS     *TLS   // of the frontend; nil means plaintext
	Profile string // file for a CPU profile, if the proxy can make one
	// Connections is how many clients will connect.
	Connections int
	// Buffer is what package relay may hold for slow clients, in octets; 0 means its default.
	Buffer int64
}

// TLS names PEM files.
type TLS struct {
	Cert, Key string
	Both      string // certificate and key in one file
}

// A Kind is a proxy to compare.
type Kind struct {
	Name string
	// About describes it in a few words.
	About string
	// Peer says that it is another's proxy that knows HTTP/2, which Manifold is
	// held against.
	Peer bool
	// Command is the program that must be installed, empty for none, and VersionFlag has
	// it print its version.
	Command, VersionFlag string

	perClient int // file descriptors for each client's connection; 0 means 1
	start     func(context.Context, Config) (*Running, error)
}

// The names of the proxies that others are held against.
const (
	Forward = "tcp-forward"
	Direct  = "direct"
)

// Kinds returns all proxies, in the order in which they are shown.
func Kinds() []Kind {
	return []Kind{
		{Name: "relay", About: "package relay of this repository", start: startRole(roleRelay)},
		{Name: Forward, About: "Go's io.Copy between TCP connections: the floor", perClient: 2, start: startRole(roleForward)},
		{Name: "haproxy", About: "HAProxy, HTTP/2 on both sides, http-reuse safe", Peer: true, Command: "haproxy", VersionFlag: "-v", start: startHAProxy},
		{Name: "nginx", About: "nginx, grpc_pass with upstream keepalive", Peer: true, Command: "nginx", VersionFlag: "-v", start: startNginx},
		{Name: "nghttpx", About: "nghttpx, HTTP/2 on both sides", Peer: true, Command: "nghttpx", VersionFlag: "--version", start: startNghttpx},
		{Name: "grpc-go", About: "package proxy of this repository in a grpc-go server", Peer: true, start: startRole(roleLibrary)},
		{Name: Direct, About: "no proxy", start: startDirect},
	}
}

// Defaults are the names of the proxies to compare unless told otherwise.
func Defaults() []string {
	var names []string
	for _, k := range Kinds() {
		if k.Name != Direct {
			names = append(names, k.Name)
		}
	}
	return names
}

// ByName returns a kind.
func ByName(name string) (Kind, error) {
	for _, k := range Kinds() {
		if k.Name == name {
			return k, nil
		}
	}
	return Kind{}, fmt.Errorf("no proxy %q", name)
}

// Installed returns an error that says what to do if the kind's program is not there.
func (k Kind) Installed() error {
	if k.Command == "" {
		return nil
	}
	if _, err := look(k.Command); err != nil {
		return fmt.Errorf("%s is not installed: run install.sh, or leave it out by -proxies", k.Name)
	}
	return nil
}

// Version returns the first line of what an installed program says of its version, or
// "".
func (k Kind) Version(ctx context.Context) string {
	if k.Command == "" {
		return ""
	}
	path, err := look(k.Command)
	if err != nil {
		return ""
	}
	text, err := exec.CommandContext(ctx, path, k.VersionFlag).CombinedOutput()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// otherFiles is about how many descriptors a proxy needs beside those of clients.
const otherFiles = 256

// Refuses returns why the proxy cannot have so many clients on this machine, or "".
func (k Kind) Refuses(connections int) string {
	most := descriptors()
	if need := connections*max(1, k.perClient) + otherFiles; need > most {
		return fmt.Sprintf("%d connections take about %d file descriptors, of which a process may have %d here", connections, need, most)
	}
	return ""
}

// Start starts the proxy. It ends with Stop, or with ctx.
func (k Kind) Start(ctx context.Context, c Config) (*Running, error) {
	r, err := k.start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.Name, err)
	}
	return r, nil
}

// Running is a proxy that takes calls.
type Running struct {
	Addr string
	PID  int // of it and, as descendants, its workers; 0 if there is no process
	stop func()
	heap func() (Heap, error)
}

// Stop ends the proxy and waits for that.
func (r *Running) Stop() { r.stop() }

// Heap is what a Go program has allocated so far.
type Heap struct{ Objects, Bytes uint64 }

// Heap returns what the proxy has allocated. ok is false if it is no Go program.
func (r *Running) Heap() (h Heap, ok bool, err error) {
	if r.heap == nil {
		return h, false, nil
	}
	h, err = r.heap()
	return h, true, err
}

func startDirect(_ context.Context, c Config) (*Running, error) {
	if c.TLS != nil {
		return nil, fmt.Errorf("the backend speaks no TLS")
	}
	return &Running{Addr: c.Backend, stop: func() {}}, nil
}

// look finds a program; distributions put servers where not every user's PATH leads.
func look(command string) (string, error) {
	path, err := exec.LookPath(command)
	if err != nil {
		return exec.LookPath("/usr/sbin/" + command)
	}
	return path, nil
}
