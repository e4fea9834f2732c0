// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package proxies

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

// How long an installed proxy may take to listen, and to end after SIGTERM.
const (
	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
)

// minConnections is how many a proxy can hold at least, with its upstream ones.
const minConnections = 8192

// descriptors is how many files a process may open, if it asks for it.
func descriptors() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Max, 1<<20))
}

// setup is what the configurations of installed proxies are made of.
type setup struct {
	Config
	Host, Port               string // to listen on
	BackendHost, BackendPort string
	MaxConnections           int  // clients' and upstream ones
	Files                    int  // that it may open
	Root                     bool // the user is root
}

// startProgram writes the configuration that conf gives, starts an installed proxy
// with args, in which {conf} stands for the file and {dir} for its directory, and
// waits until it listens.
func startProgram(ctx context.Context, c Config, command, conf string, args ...string) (*Running, error) {
	path, err := look(command)
	if err != nil {
		return nil, err
	}
	s, err := newSetup(c)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(c.Dir, command+".conf")
	text, err := s.fill(conf)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	words := strings.NewReplacer("{conf}", file, "{dir}", c.Dir)
	for i := range args {
		args[i] = words.Replace(args[i])
	}
	p := &program{cmd: exec.CommandContext(ctx, path, args...), done: make(chan struct{}), log: filepath.Join(c.Dir, "output")}
	if err := p.start(net.JoinHostPort(s.Host, s.Port)); err != nil {
		return nil, err
	}
	return &Running{Addr: net.JoinHostPort(s.Host, s.Port), PID: p.cmd.Process.Pid, stop: p.stop}, nil
}

func newSetup(c Config) (*setup, error) {
	s := &setup{Config: c, MaxConnections: max(minConnections, c.Connections+c.Connections/4), Files: descriptors(), Root: os.Geteuid() == 0}
	lis, err := net.Listen("tcp", "127.0.0.1:0") // finds a port that is free
	if err != nil {
		return nil, err
	}
	s.Host, s.Port, _ = net.SplitHostPort(lis.Addr().String())
	if err := lis.Close(); err != nil {
		return nil, err
	}
	s.BackendHost, s.BackendPort, err = net.SplitHostPort(c.Backend)
	return s, err
}

// fill returns a configuration with what it has in {{ }} filled in.
func (s *setup) fill(conf string) (string, error) {
	t, err := template.New("conf").Parse(conf)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, s)
	return b.String(), err
}

// program is an installed proxy that runs.
type program struct {
	cmd  *exec.Cmd
	log  string        // file with what it prints
	done chan struct{} // closed when it has ended
}

func (p *program) start(addr string) error {
	out, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer out.Close() //nolint:errcheck // the program has its own
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// Should this process be killed, its proxies are told.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopTimeout
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go p.wait() // ends with the program, which stop ends
	if err := p.ready(addr); err != nil {
		p.stop()
		return err
	}
	return nil
}

func (p *program) wait() {
	_ = p.cmd.Wait()
	close(p.done)
}

// ready waits until something accepts connections at addr.
func (p *program) ready(addr string) error {
	deadline := time.After(startTimeout)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("tcp", addr); err == nil {
			return conn.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended before it listened: %w", p.output())
		case <-deadline:
			return fmt.Errorf("it did not listen on %s within %v: %w", addr, startTimeout, p.output())
		case <-tick.C:
		}
	}
}

// output is what the program has printed, as an error.
func (p *program) output() error {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	return errors.New(strings.TrimSpace(string(text)))
}

func (p *program) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}
