// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package evloop

import "net"

// A Socket there is none of: this system has no epoll.
type Socket struct{ net.Conn }

// Of returns nil.
func Of(net.Conn) *Socket { return nil }

// RawRead is never called.
func (s *Socket) RawRead(func(fd uintptr) bool) error { return net.ErrClosed }

// TryRead is never called.
func (s *Socket) TryRead([]byte) (int, error) { return 0, net.ErrClosed }

// TryWrite is never called.
func (s *Socket) TryWrite([]byte) (int, error) { return 0, net.ErrClosed }

// WriteSome is never called.
func (s *Socket) WriteSome([]byte) (int, error) { return 0, net.ErrClosed }

// Watch is never called.
func (s *Socket) Watch(Handler) bool { return false }

// Polled is never called.
func (s *Socket) Polled() bool { return true }

// Elsewhere does nothing.
func Elsewhere() {}
