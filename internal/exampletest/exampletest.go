// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package exampletest has tests run what is below examples, as a user would but for addresses.
package exampletest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scriptTimeout bounds a script that makes certificates.
const scriptTimeout = 30 * time.Second

// Path returns the path of a file below examples, for a test that runs anywhere in the repository.
func Path(t testing.TB, name string) string {
	t.Helper()

	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "examples", "manifold.yaml")); err == nil {
			return filepath.Join(dir, "examples", name)
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("examples/manifold.yaml is in no directory above this one")
		}
	}
}

// Read returns the text of a file below examples with old texts replaced by new ones, each of which must be in it.
func Read(t testing.TB, name string, oldnew ...string) string {
	t.Helper()

	text, err := os.ReadFile(Path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(string(text), oldnew[i]) {
			t.Fatalf("%s has no %q to replace", name, oldnew[i])
		}
	}

	return strings.NewReplacer(oldnew...).Replace(string(text))
}

// Copy writes what Read returns to a file of the same name in dir, and returns its path.
func Copy(t testing.TB, name, dir string, oldnew ...string) string {
	t.Helper()

	copied := filepath.Join(dir, filepath.Base(name))
	if err := os.WriteFile(copied, []byte(Read(t, name, oldnew...)), 0o600); err != nil {
		t.Fatal(err)
	}

	return copied
}

// Certificates runs a script below examples that makes them in a new directory, and returns that.
// Without openssl, which the scripts need, the test is skipped.
func Certificates(t testing.TB, script string) (dir string) {
	t.Helper()

	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skipf("no openssl, which examples/%s needs", script)
	}
	ctx, cancel := context.WithTimeout(t.Context(), scriptTimeout)
	defer cancel()
	dir = t.TempDir()
	if out, err := exec.CommandContext(ctx, "sh", Path(t, script), dir).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}

	return dir
}

// Pair loads NAME.crt and NAME.key from dir.
func Pair(t testing.TB, dir, name string) tls.Certificate {
	t.Helper()

	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}

	return pair
}

// Pool loads the authorities of a file in dir.
func Pool(t testing.TB, dir, name string) *x509.CertPool {
	t.Helper()

	pem, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s has no certificates", name)
	}

	return pool
}
