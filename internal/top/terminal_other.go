// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package top

import "os"

// watchSize tells of nothing here: the size is looked at whenever something is drawn.
func watchSize() (changed <-chan os.Signal, stop func()) { return nil, func() {} }

// typed reads from a terminal.
type typed struct {
	read <-chan string // closed at the end of the input
	stop chan struct{}
}

// openKeys begins to read what is typed. A read that waits cannot be called off here: the goroutine ends with the key after close, or with
// the process, which ends then.
func openKeys(in *os.File) (*typed, error) {
	read := make(chan string)
	t := &typed{read: read, stop: make(chan struct{})}
	go func() { // until the key after close, or the process ends
		defer close(read)
		buf := make([]byte, 256)
		for {
			n, err := in.Read(buf)
			if err != nil {
				return
			}
			select {
			case read <- string(buf[:n]):
			case <-t.stop:
				return
			}
		}
	}()

	return t, nil
}

// close ends the reading.
func (t *typed) close() { close(t.stop) }
