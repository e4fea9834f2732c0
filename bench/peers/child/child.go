// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package child runs parts of a program as processes of their own: the program
// starts itself again in a role, and talks to it in JSON over standard input and output, a
// line for a request and a line for its answer. A child ends with its input, so none
// outlives the program.
package child

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
)

// The environment of a child: its role, what the role was given, in JSON, and
// Go's own variable for the number of threads that run Go code.
const (
	envRole   = "MANIFOLD_PEERS_ROLE"
	envConfig = "MANIFOLD_PEERS_CONFIG"
	envProcs  = "GOMAXPROCS"
)

// A Role is the program of a child. It gets its configuration, and answers what it
// is asked by Serve. It returns when Serve does.
type Role func(config json.RawMessage, s *Session) error

// Run plays the role that this process was started for. It returns false at once
// in a process that was not, so programs and tests begin with it.
func Run(roles map[string]Role) bool {
	name := os.Getenv(envRole)
	if name == "" {
		return false
	}
	role, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no role %q\n", name)
		os.Exit(2)
	}
	if err := role(json.RawMessage(os.Getenv(envConfig)), newSession(os.Stdin, os.Stdout)); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
	return true
}

// Session is a child's end.
type Session struct {
	in  *bufio.Reader
	out *json.Encoder
}

func newSession(in io.Reader, out io.Writer) *Session {
	return &Session{bufio.NewReader(in), json.NewEncoder(out)}
}

// reply is a line of a child's output.
type reply struct {
	Error string `json:",omitempty"`
	Value any    `json:",omitempty"`
}

// Serve says hello, and then answers each request until there are no more. An
// error of answer goes to the one who asked.
func (s *Session) Serve(hello any, answer func(request json.RawMessage) (any, error)) error {
	if err := s.out.Encode(reply{Value: hello}); err != nil {
		return err
	}
	for {
		line, err := s.in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var r reply
		if r.Value, err = answer(line); err != nil {
			r = reply{Error: err.Error()}
		}
		if err := s.out.Encode(r); err != nil {
			return err
		}
	}
}

// Child is a running child. Its methods are not safe for concurrent use.
type Child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Start starts a child that runs Go code on threads threads at once, and stores
// what it says hello with in hello. The child ends with ctx at the latest.
func Start(ctx context.Context, role string, config any, threads int, hello any) (*Child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), envRole+"="+role, envConfig+"="+string(text), envProcs+"="+strconv.Itoa(threads))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &Child{cmd, in, bufio.NewReader(out)}
	if err := c.read(hello); err != nil {
		c.Stop()
		return nil, fmt.Errorf("starting %s: %w", role, err)
	}
	return c, nil
}

// Ask sends a request and stores what it is answered in answer.
func (c *Child) Ask(request, answer any) error {
	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return err
	}
	return c.read(answer)
}

func (c *Child) read(value any) error {
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("process ended: %w", err)
	}
	r := reply{Value: value}
	if err := json.Unmarshal(line, &r); err != nil {
		return err
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
}

// PID is the child's process.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Stop ends the child and waits for that.
func (c *Child) Stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}
