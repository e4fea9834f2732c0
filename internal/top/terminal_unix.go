// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package top

import (
	"errors"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// watchSize tells of changes of the terminal's size until stop.
func watchSize() (changed <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGWINCH)

	return c, func() { signal.Stop(c) }
}

// typed reads from a terminal. A read of a terminal cannot be called off, so it is begun only when there is something.
type typed struct {
	read <-chan string // closed at the end of the input

	in      *os.File
	wake    *os.File // closed to end run
	woken   *os.File
	stop    chan struct{}
	running sync.WaitGroup
}

// openKeys begins to read what is typed.
func openKeys(in *os.File) (*typed, error) {
	read := make(chan string)
	t := &typed{read: read, in: in, stop: make(chan struct{})}
	var err error
	if t.woken, t.wake, err = os.Pipe(); err != nil {
		return nil, err
	}
	t.running.Go(func() { t.run(read) }) // ends with close

	return t, nil
}

// close ends the reading.
func (t *typed) close() {
	close(t.stop)
	t.wake.Close() //nolint:errcheck,gosec // it is the end
	t.running.Wait()
	t.woken.Close() //nolint:errcheck,gosec // it is the end
}

func (t *typed) run(read chan<- string) {
	defer close(read)
	fds := []unix.PollFd{{Fd: int32(t.in.Fd()), Events: unix.POLLIN}, {Fd: int32(t.woken.Fd()), Events: unix.POLLIN}}
	buf := make([]byte, 256)
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		if fds[0].Revents == 0 {
			continue
		}
		n, err := t.in.Read(buf)
		if err != nil {
			return
		}
		select {
		case read <- string(buf[:n]):
		case <-t.stop:
			return
		}
	}
}
