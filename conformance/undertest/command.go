// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package undertest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// How long a command may take to listen, and to end after SIGTERM.
const (
	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
)

// Command starts a proxy by a command line of words between spaces, in which
// these stand for what the suite asks: {listen}, the host:port to listen on, or
// {port}, its port alone;
// {backends}, the host:port of each backend with commas between, or
// {https-backends}, the same as https:// URLs; {cert} and {key}, files with the
// proxy's certificate and key; {client-ca} and {backend-ca}, files with the
// authorities of clients and backends; {backend-cert} and {backend-key}, files
// with what to show to backends.
//
// A command line serves the configurations that have just what it mentions: one
// without {cert} serves h2c alone, one with it TLS alone. For the others Start
// returns ErrUnsupported.
func Command(line string) Start {
	return func(c Config) (string, func(), error) {
		addr, err := freeAddr()
		if err != nil {
			return "", nil, err
		}
		dir, err := os.MkdirTemp("", "conformance")
		if err != nil {
			return "", nil, err
		}
		args, err := expand(line, addr, dir, c)
		if err != nil {
			return "", nil, errors.Join(err, os.RemoveAll(dir))
		}
		p := &program{dir: dir, done: make(chan struct{})}
		if err := p.start(args); err != nil {
			return "", nil, errors.Join(err, os.RemoveAll(dir))
		}
		if err := p.ready(addr); err != nil {
			p.stop()
			return "", nil, err
		}
		return addr, p.stop, nil
	}
}

// expand writes the files that the line asks for and returns its words.
func expand(line, addr, dir string, c Config) ([]string, error) {
	backends := strings.Join(c.Backends, ",")
	if strings.Contains(line, "{https-backends}") {
		backends = "https://" + strings.Join(c.Backends, ",https://")
	}
	_, port, _ := net.SplitHostPort(addr)
	line = strings.NewReplacer("{listen}", addr, "{port}", port, "{backends}", backends, "{https-backends}", backends).Replace(line)
	files := map[string][]byte{"client-ca": c.ClientCA, "backend-ca": c.BackendCA}
	for name, id := range map[string]*Identity{"": c.Identity, "backend-": c.BackendIdentity} {
		if id == nil {
			id = &Identity{}
		}
		files[name+"cert"], files[name+"key"] = id.Cert, id.Key
	}
	for name, content := range files {
		mark := "{" + name + "}"
		if strings.Contains(line, mark) != (content != nil) {
			return nil, fmt.Errorf("%w: %s is asked by one of the suite and the command line alone", ErrUnsupported, mark)
		}
		file := filepath.Join(dir, name+".pem")
		if content != nil {
			if err := os.WriteFile(file, content, 0o600); err != nil {
				return nil, err
			}
		}
		line = strings.ReplaceAll(line, mark, file)
	}
	return strings.Fields(line), nil
}

func freeAddr() (string, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return lis.Addr().String(), lis.Close()
}

// A program is a running command.
type program struct {
	dir    string
	cmd    *exec.Cmd
	output bytes.Buffer  // written by cmd until done
	done   chan struct{} // closed when cmd has ended
}

func (p *program) start(args []string) error {
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go p.wait() // ends with the command, which stop ends
	return nil
}

func (p *program) wait() {
	_ = p.cmd.Wait()
	close(p.done)
}

// ready waits until something accepts connections at addr.
func (p *program) ready(addr string) error {
	deadline := time.After(startTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("tcp", addr); err == nil {
			return conn.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it listened on %s:\n%s", p.cmd.Path, addr, p.output.Bytes())
		case <-deadline:
			return fmt.Errorf("%s did not listen on %s within %v", p.cmd.Path, addr, startTimeout)
		case <-tick.C:
		}
	}
}

func (p *program) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	_ = os.RemoveAll(p.dir)
}
