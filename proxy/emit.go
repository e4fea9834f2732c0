// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "google.golang.org/grpc/mem"

// How concat sends the messages of a stream: as they come, or ordered by a key.

// emit sends m, the streaming form of f, in its turn if there is an order. f is nil for a message of an error. turn is held.
func (a *concat) emit(t *fanTarget, f *Frame, m mem.BufferSlice) error {
	if a.order == nil {
		return a.sendMessage(m)
	}

	if f != nil {
		key, err := t.orderKey(f)
		if err != nil {
			m.Free()

			return err
		}

		t.part.key = key
	}

	return a.sendAll(a.order.Push(t.index, t.part.key, m.Len(), m))
}

// sendAll sends and frees the messages. turn is held.
func (a *concat) sendAll(messages []mem.BufferSlice) (err error) {
	for _, m := range messages {
		if err == nil {
			err = a.sendMessage(m)
		} else {
			m.Free()
		}
	}

	return err
}

// orderKey asks the program for the key of a message.
func (t *fanTarget) orderKey(f *Frame) (key string, err error) {
	defer t.recovered("OrderKey", &err)

	return t.fan.options.OrderKey(f.Bytes()), nil
}
