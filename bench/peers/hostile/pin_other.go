// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"errors"
	"time"
)

func pinned(bool, func() error) error { return errors.New("only Linux keeps processes on a core") }

// spend waits for as long; only on Linux it uses as much CPU.
func spend(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}
