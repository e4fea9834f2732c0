// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/manifold-grpc/manifold/internal/h2/frame"
)

func TestSendWindow(t *testing.T) {
	w := NewSendWindow(100)
	steps := []struct {
		name string
		do   func() *frame.Error
		code frame.Code // NoError: none
		want uint32     // Available afterwards
	}{
		{"initial", func() *frame.Error { return nil }, 0, 100},
		{"take", func() *frame.Error { w.Take(60); return nil }, 0, 40},
		{"settings lower it below zero", func() *frame.Error { return w.Adjust(-70) }, 0, 0},
		{"still below zero", func() *frame.Error { return w.Add(1, 30) }, 0, 0},
		{"and above", func() *frame.Error { return w.Add(1, 5) }, 0, 5},
		{"update by zero", func() *frame.Error { return w.Add(1, 0) }, frame.ProtocolError, 5},
		{"overflow", func() *frame.Error { return w.Add(1, frame.MaxWindow-4) }, frame.FlowControlError, 5},
		{"up to the maximum", func() *frame.Error { return w.Add(1, frame.MaxWindow-5) }, 0, frame.MaxWindow},
		{"settings overflow", func() *frame.Error { return w.Adjust(1) }, frame.FlowControlError, frame.MaxWindow},
	}
	for _, s := range steps {
		err := s.do()
		if (err == nil) != (s.code == 0) || err != nil && err.Code != s.code {
			t.Errorf("%s: %v, want %v", s.name, err, s.code)
		}
		if got := w.Available(); got != s.want {
			t.Errorf("%s: %d octets, want %d", s.name, got, s.want)
		}
	}
	var zero SendWindow
	if zero.Available() != 0 {
		t.Error("the zero window lets something out")
	}
}

func TestSendWindowErrorScope(t *testing.T) {
	w := NewSendWindow(frame.MaxWindow)
	if err := w.Add(7, 1); err == nil || err.StreamID != 7 || err.Reason != "window_overflow" {
		t.Errorf("overflow on a stream: %v", err)
	}
	if err := w.Add(0, 0); err == nil || !err.Connection() || err.Reason != "window_update_zero" {
		t.Errorf("update by zero on the connection: %v", err)
	}
	if err := w.Adjust(1); err == nil || !err.Connection() || err.Reason != "window_overflow" {
		t.Errorf("settings: %v", err)
	}
}

func TestReceive(t *testing.T) {
	var w RecvWindow
	w.Init(100, 100, nil, nil)
	if err := w.Receive(3, 100); err != nil {
		t.Fatal(err)
	}
	err := w.Receive(3, 1)
	if err == nil || err.Code != frame.FlowControlError || err.StreamID != 3 || err.Reason != "window_exceeded" {
		t.Errorf("one octet too many: %v", err)
	}
	if w.Unread() != 100 {
		t.Errorf("Unread = %d, want 100", w.Unread())
	}
	if err := w.Receive(3, 0); err != nil {
		t.Errorf("an empty frame on an empty window: %v", err)
	}
}

// TestCredit: the peer is told once half of the window was consumed.
func TestCredit(t *testing.T) {
	var w RecvWindow
	w.Init(100, 100, nil, nil)
	w.Receive(1, 100)
	for i, tt := range []struct{ n, want, unread uint32 }{
		{49, 0, 51}, {1, 50, 50}, {24, 0, 26}, {26, 50, 0},
	} {
		if got := w.Consume(tt.n, 0, 0); got != tt.want || w.Unread() != tt.unread {
			t.Errorf("step %d: increment %d, %d unread, want %d, %d", i, got, w.Unread(), tt.want, tt.unread)
		}
	}
	if err := w.Receive(1, 100); err != nil {
		t.Errorf("the window is not whole again: %v", err)
	}
	w.Consume(3, 0, 0)
	if got := w.Credit(); got != 3 {
		t.Errorf("Credit = %d, want 3", got)
	}
	if got := w.Credit(); got != 0 {
		t.Errorf("second Credit = %d, want 0", got)
	}
}

// drain receives and consumes a whole window, which takes the given time.
func drain(w *RecvWindow, from, took, rtt time.Duration) (increment uint32) {
	n := w.available
	w.Receive(1, n)
	increment = w.Consume(n/2, from, rtt)
	return increment + w.Consume(n-n/2, from+took, rtt)
}

func TestGrow(t *testing.T) {
	const rtt = 100 * time.Millisecond
	tests := []struct {
		name   string
		limit  uint32
		budget int64
		took   time.Duration
		rtt    time.Duration
		want   uint32 // size afterwards
	}{
		{"within two round trips", 1000, 1000, 2 * rtt, rtt, 200},
		{"slower", 1000, 1000, 2*rtt + 1, rtt, 100},
		{"unknown round trip", 1000, 1000, 0, 0, 100},
		{"up to the limit", 150, 1000, rtt, rtt, 150},
		{"at the limit", 100, 1000, rtt, rtt, 100},
		{"budget spent", 1000, 99, rtt, rtt, 100},
		{"budget just enough", 1000, 100, rtt, rtt, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBudget(tt.budget)
			var w RecvWindow
			w.Init(100, tt.limit, b, nil)
			got := drain(&w, time.Hour, tt.took, tt.rtt)
			if w.Size() != tt.want {
				t.Errorf("size %d, want %d", w.Size(), tt.want)
			}
			if got != w.Size() { // 100 consumed, and what it grew by
				t.Errorf("increments %d, want %d", got, w.Size())
			}
			if b.Used() != int64(tt.want-100) {
				t.Errorf("budget used %d, want %d", b.Used(), tt.want-100)
			}
			w.Close()
			if b.Used() != 0 {
				t.Errorf("budget used %d after Close", b.Used())
			}
			if w.Receive(1, 1) == nil {
				t.Error("a closed window accepts octets")
			}
		})
	}
}

// Bulk gets longer windows however short a round trip is, but no longer than that takes.
func TestGrowForBulk(t *testing.T) {
	for _, tt := range []struct {
		size      uint32
		took, rtt time.Duration
		want      uint32
	}{
		{64 << 10, bulkTime, time.Millisecond, 128 << 10},
		{64 << 10, bulkTime + 1, time.Millisecond, 64 << 10},
		{64 << 10, bulkTime, 0, 64 << 10},
		{bulkWindow, bulkTime, time.Millisecond, bulkWindow},
		{bulkWindow, 2 * time.Millisecond, time.Millisecond, 2 * bulkWindow},
		{64 << 10, 100 * time.Millisecond, 50 * time.Millisecond, 128 << 10},
	} {
		var w RecvWindow
		w.Init(tt.size, 1<<20, nil, nil)
		if drain(&w, 0, tt.took, tt.rtt); w.Size() != tt.want {
			t.Errorf("a window of %d octets that lasted for %v, with round trips of %v, became %d, want %d", tt.size, tt.took, tt.rtt, w.Size(), tt.want)
		}
	}
}

// A window grows only if both of its budgets have room, takes from both or neither, and
// gives back to both.
func TestGrowWithinTwoBudgets(t *testing.T) {
	for _, tt := range []struct {
		first, second int64
		want          uint32
	}{{1000, 1000, 200}, {99, 1000, 100}, {1000, 99, 100}} {
		a, b := NewBudget(tt.first), NewBudget(tt.second)
		var w RecvWindow
		w.Init(100, 1000, a, b)
		drain(&w, 0, 0, time.Second)
		if used := int64(tt.want - 100); w.Size() != tt.want || a.Used() != used || b.Used() != used {
			t.Errorf("budgets of %d and %d: size %d, used %d and %d, want size %d", tt.first, tt.second, w.Size(), a.Used(), b.Used(), tt.want)
		}
		if w.Close(); a.Used() != 0 || b.Used() != 0 {
			t.Errorf("used %d and %d after Close", a.Used(), b.Used())
		}
	}
}

// TestGrowStepwise: a fast stream doubles once per window, then rests when it
// slows down. Idle time does not count against it.
func TestGrowStepwise(t *testing.T) {
	const rtt = 100 * time.Millisecond
	var w RecvWindow
	w.Init(100, 1000, nil, nil)
	now := time.Duration(0)
	for i, tt := range []struct {
		took time.Duration
		want uint32
	}{{rtt, 200}, {rtt, 400}, {time.Second, 400}, {rtt, 800}, {rtt, 1000}, {rtt, 1000}} {
		drain(&w, now, tt.took, rtt)
		if w.Size() != tt.want {
			t.Errorf("window %d: size %d, want %d", i, w.Size(), tt.want)
		}
		now += tt.took + time.Hour // idle
	}
}

func TestInitBounds(t *testing.T) {
	var w RecvWindow
	w.Init(frame.MaxWindow-10, 1<<32-1, nil, nil)
	drain(&w, 0, 0, time.Second)
	if w.Size() != frame.MaxWindow {
		t.Errorf("size %d, want %d", w.Size(), frame.MaxWindow)
	}
}

// FuzzRecvWindow plays a peer that sends what it may, and checks that both ends
// agree on the window, and that the budget holds.
func FuzzRecvWindow(f *testing.F) {
	f.Add(uint64(1), uint32(100), uint32(1000), int64(500))
	f.Add(uint64(2), uint32(65535), uint32(1<<20), int64(1<<40))
	f.Add(uint64(3), uint32(1), uint32(1<<31), int64(1<<40))
	f.Fuzz(func(t *testing.T, seed uint64, size, limit uint32, budget int64) {
		size %= frame.MaxWindow + 1
		g := rand.New(rand.NewPCG(seed, 0))
		b := NewBudget(budget)
		var w RecvWindow
		w.Init(size, limit, b, nil)
		peer := int64(size) // what the peer thinks it may send
		for range 200 {
			n := uint32(g.Int64N(min(peer, 1<<20) + 1))
			if err := w.Receive(1, n); err != nil {
				t.Fatalf("peer may send %d, %v", peer, err)
			}
			peer -= int64(n)
			now := time.Duration(g.IntN(1000))
			peer += int64(w.Consume(uint32(g.Int64N(int64(w.Unread())+1)), now, time.Duration(g.IntN(1000))))
			if g.IntN(10) == 0 {
				peer += int64(w.Credit())
			}
			if peer != int64(w.available) || peer > frame.MaxWindow {
				t.Fatalf("peer may send %d, we accept %d", peer, w.available)
			}
			if w.Size() > max(size, limit) || b.Used() > max(budget, 0) || b.Used() != int64(w.Size()-size) {
				t.Fatalf("size %d of %d to %d, budget %d of %d", w.Size(), size, limit, b.Used(), budget)
			}
			if n := w.Unread(); n == 0 && peer == 0 && size >= creditPart {
				t.Fatal("nothing is held and the peer may send nothing")
			}
		}
		if w.Close(); b.Used() != 0 {
			t.Fatalf("budget %d after Close", b.Used())
		}
	})
}

func TestBudgetConcurrently(t *testing.T) {
	b := NewBudget(100)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { // ends after its rounds
			for range 2000 {
				if b.Reserve(30) {
					if n := b.Used(); n > 100 {
						t.Errorf("%d octets of 100 in use", n)
					}
					b.Release(30)
				}
			}
		})
	}
	wg.Wait()
	if b.Used() != 0 {
		t.Errorf("%d octets in use at the end", b.Used())
	}
	if !b.Reserve(100) || b.Reserve(1) {
		t.Error("the budget is not exactly 100")
	}
	var none *Budget
	if !none.Reserve(1<<62) || none.Used() != 0 {
		t.Error("a nil budget has a bound")
	}
	none.Release(1 << 62)
}
