// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// The environment of a proxy's process: its library, its backends with commas
// between them, and the file for its CPU profile, if there is to be one.
const (
	envLibrary  = "MANIFOLD_BENCH_LIBRARY"
	envBackends = "MANIFOLD_BENCH_BACKENDS"
	envProfile  = "MANIFOLD_BENCH_PROFILE"
)

// RunChild is the program of a proxy's process. It returns false at once in any
// other process, so that a program which may start proxies begins with it.
//
// The proxy's address goes to standard output, and then a [Usage] in JSON for
// each line on standard input. It ends with its input.
func RunChild() bool {
	library := os.Getenv(envLibrary)
	if library == "" {
		return false
	}
	if err := runChild(Library(library), strings.Split(os.Getenv(envBackends), ",")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func runChild(l Library, backends []string) error {
	addr, stop, err := l.Start(backends)
	if err != nil {
		return err
	}
	defer stop()
	if name := os.Getenv(envProfile); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	fmt.Println(addr)
	requests := bufio.NewScanner(os.Stdin)
	for requests.Scan() {
		u, err := CurrentUsage()
		if err != nil {
			return err
		}
		if err := json.NewEncoder(os.Stdout).Encode(u); err != nil {
			return err
		}
	}
	return requests.Err()
}

// Process is a proxy in a process of its own. It is not safe for concurrent use.
type Process struct {
	cmd    *exec.Cmd
	input  io.WriteCloser
	output *bufio.Reader
	conn   *grpc.ClientConn
}

// StartProcess runs this program again as a proxy, which [RunChild] makes of it.
// The process ends with Stop, with ctx, or with this process. It leaves a CPU
// profile in the file of that name, if profile is not empty.
func StartProcess(ctx context.Context, l Library, backends []string, profile string) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), envLibrary+"="+string(l), envBackends+"="+strings.Join(backends, ","), envProfile+"="+profile)
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, input: input, output: bufio.NewReader(output)}
	addr, err := p.output.ReadString('\n')
	if err == nil {
		p.conn, err = Dial(strings.TrimSpace(addr))
	}
	if err != nil {
		p.Stop()
		return nil, fmt.Errorf("bench: starting a proxy over %s: %w", l, err)
	}
	return p, nil
}

// Stop ends the process and waits for that.
func (p *Process) Stop() {
	if p.conn != nil {
		_ = p.conn.Close()
	}
	_ = p.input.Close()
	_ = p.cmd.Wait()
}

// usage asks the process what it has spent.
func (p *Process) usage() (u Usage, err error) {
	if _, err := io.WriteString(p.input, "\n"); err != nil {
		return u, err
	}
	line, err := p.output.ReadBytes('\n')
	if err != nil {
		return u, err
	}
	return u, json.Unmarshal(line, &u)
}

// Sample is the cost of a call, as the mean over one slice of load.
type Sample struct {
	CPU     time.Duration // of the proxy
	Bytes   float64       // that the proxy allocated
	Objects float64       // likewise
	Wall    time.Duration // as the caller saw it
}

// Measure puts load on the proxy for the time of one slice. The first failed
// call or wrong answer ends it.
func (p *Process) Measure(ctx context.Context, w Workload, slice time.Duration) (Sample, error) {
	if err := w.Do(ctx, p.conn); err != nil { // opens what connections it takes
		return Sample{}, err
	}
	before, err := p.usage()
	if err != nil {
		return Sample{}, err
	}
	calls, wall, err := load(ctx, p.conn, w, slice)
	if err != nil {
		return Sample{}, err
	}
	after, err := p.usage()
	if err != nil {
		return Sample{}, err
	}
	spent := after.Sub(before)
	return Sample{
		CPU:     spent.CPU / time.Duration(calls),
		Bytes:   float64(spent.Bytes) / float64(calls),
		Objects: float64(spent.Objects) / float64(calls),
		Wall:    wall * time.Duration(w.Concurrency) / time.Duration(calls),
	}, nil
}

// load makes calls, w.Concurrency at once, for the given time but at least one
// each, and returns their number and how long they took.
func load(ctx context.Context, conn grpc.ClientConnInterface, w Workload, slice time.Duration) (calls int64, wall time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		done  atomic.Int64
		wg    sync.WaitGroup
		begin = time.Now()
	)
	for range w.Concurrency {
		wg.Go(func() {
			for {
				if err := w.Do(ctx, conn); err != nil {
					cancel(err) // the first one is the cause
					return
				}
				done.Add(1)
				if time.Since(begin) >= slice {
					return
				}
			}
		})
	}
	wg.Wait()
	wall = time.Since(begin)
	return done.Load(), wall, context.Cause(ctx)
}
