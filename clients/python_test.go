// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestPython runs python/suite.py: grpcio.
func TestPython(t *testing.T) {
	// Debian's own has the packages; another python3 may come first in the path.
	python := cmp.Or(os.Getenv("PYTHON"), "/usr/bin/python3")
	if out, err := exec.Command(python, "-c", "import grpc, google.protobuf").CombinedOutput(); err != nil {
		t.Fatalf("needs $PYTHON or /usr/bin/python3 with grpcio and protobuf: apt install python3-grpcio python3-protobuf\n%s", out)
	}
	protoc := need(t, "protoc", "apt install protobuf-compiler")

	generated := t.TempDir()
	out, err := exec.Command(protoc, "--python_out="+generated, "-I", filepath.Dir(sampleProto), sampleProto).CombinedOutput()
	if err != nil {
		t.Fatalf("protoc: %v\n%s", err, out)
	}

	overEach(t, func(t *testing.T, g target) {
		env := append(g.environment(t), "PYTHONPATH="+generated, "PYTHONDONTWRITEBYTECODE=1")
		suite(t, "python", env, python, "suite.py", "-v")
	})
}
