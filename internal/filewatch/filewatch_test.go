// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package filewatch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait.
const patience = 20 * time.Second

// watch runs a watcher of path; the channel gets what the file says after each change.
func watch(t *testing.T, path string) <-chan string {
	t.Helper()
	told := make(chan string, 100)
	w, err := New(path, func() {
		text, err := os.ReadFile(path)
		if err != nil {
			text = []byte(err.Error())
		}
		told <- string(text)
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, w)

	return told
}

func run(t *testing.T, w *Watcher) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // ends with the test
		defer close(done)
		w.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// says waits until the file was told to say text.
func says(t *testing.T, told <-chan string, text string) {
	t.Helper()
	end := time.After(patience)
	for {
		select {
		case got := <-told:
			if got == text {
				return
			}
			t.Logf("in between: %q", got)
		case <-end:
			t.Fatalf("nobody told of %q", text)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEdits(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.yaml")
	write(t, path, "one")
	told := watch(t, path)

	write(t, path, "two")
	says(t, told, "two")
	write(t, path+".new", "three")
	must(t, os.Rename(path+".new", path))
	says(t, told, "three")
	must(t, os.Remove(path))
	write(t, path, "four")
	says(t, told, "four")
	write(t, path, "four") // touched
	write(t, filepath.Join(dir, "other"), "x")
	write(t, path, "five")
	says(t, told, "five")
	select {
	case got := <-told:
		t.Errorf("told of %q once more", got)
	default:
	}
}

// A file that is not there yet has changed when it comes.
func TestComes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.yaml")
	told := watch(t, path)
	write(t, path, "one")
	says(t, told, "one")
}

// Kubernetes makes a new directory and renames a link to it over the one that all files lead through.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.yaml")
	version := func(name, text string) {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		write(t, filepath.Join(dir, name, "m.yaml"), text)
		must(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	version("..1", "one")
	must(t, os.Symlink(filepath.Join("..data", "m.yaml"), path))
	told := watch(t, path)

	for _, v := range []string{"2", "3"} {
		version(".."+v, v)
		says(t, told, v)
	}
	must(t, os.RemoveAll(filepath.Join(dir, "..2")))
	write(t, filepath.Join(dir, "..3", "m.yaml"), "edited in place")
	says(t, told, "edited in place")
}

// Links lead from directory to directory; each on the way is watched, as they are after a change too.
func TestLinks(t *testing.T) {
	a, b, c := t.TempDir(), t.TempDir(), t.TempDir()
	path := filepath.Join(a, "m.yaml")
	write(t, filepath.Join(c, "real"), "one")
	write(t, filepath.Join(b, "real"), "two")
	must(t, os.Symlink(filepath.Join(c, "real"), filepath.Join(b, "link")))
	must(t, os.Symlink(filepath.Join(b, "link"), path))
	told := watch(t, path)

	write(t, filepath.Join(c, "real"), "edited")
	says(t, told, "edited")
	must(t, os.Symlink("real", filepath.Join(b, "new")))
	must(t, os.Rename(filepath.Join(b, "new"), filepath.Join(b, "link")))
	says(t, told, "two")
	write(t, filepath.Join(b, "real"), "edited again")
	says(t, told, "edited again")
}

// Without events the file is looked at now and then.
func TestWithoutEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.yaml")
	write(t, path, "one")
	told := make(chan string, 1)
	w := &Watcher{path: path, changed: func() { told <- "changed" }}
	w.look()
	write(t, path, "two")
	run(t, w)
	says(t, told, "changed")
}
