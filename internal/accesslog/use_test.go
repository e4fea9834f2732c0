// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// Lines go to the output that is in use when they come, also where both wait for the same write.
func TestUseBetweenLines(t *testing.T) {
	dir := t.TempDir()
	open := func(name string) *Output {
		o, err := OpenOutput(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}

		return o
	}
	w := &Writer{cfg: Config{Buffer: 1000, Log: slog.New(slog.DiscardHandler)}, wake: make(chan struct{}, 1), at: *open("first")}
	w.add([]byte("a\n"))
	w.Use(open("unused"))
	w.add([]byte("b\n"))
	w.Use(open("second"))
	w.add([]byte("c\n"))
	w.do(w.take(nil))
	w.add([]byte("d\n"))
	w.do(w.take(nil))
	w.at.Close()
	for name, want := range map[string]string{"first": "a\n", "unused": "", "second": "b\nc\nd\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != want || err != nil {
			t.Errorf("%s has %q, %v, want %q", name, got, err, want)
		}
	}
	if n := w.Written(); n != 4 {
		t.Errorf("%d lines were written, want 4", n)
	}
}

// stuck is an output that takes nothing for an hour.
type stuck struct{}

func (stuck) Write(p []byte) (int, error) {
	time.Sleep(time.Hour)

	return len(p), nil
}

// An output that takes nothing does not hold up the end.
func TestCloseStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, err := Open(Config{Output: stuck{}})
		if err != nil {
			t.Fatal(err)
		}
		w.add([]byte("a\n"))
		time.Sleep(2 * time.Second)
		begin := time.Now()
		if w.Close(); time.Since(begin) != closeTimeout {
			t.Errorf("closed after %v, want %v", time.Since(begin), closeTimeout)
		}
		time.Sleep(2 * time.Hour)
	})
}
