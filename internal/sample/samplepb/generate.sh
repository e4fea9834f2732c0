#!/bin/sh
# SPDX-FileCopyrightText: The Manifold Authors
# SPDX-License-Identifier: Apache-2.0
#
# Regenerates the Go code of sample.proto. Needs protoc (with the well-known
# types) and Go; the plugins are built at the versions below, outside of this
# module's go.mod, which they would only burden.
set -eu
# From the top of the module, so that the file's name in reflection is unique.
cd "$(dirname "$0")/../../.."

plugins=$(mktemp -d)
trap 'rm -rf "$plugins"' EXIT
GOBIN=$plugins go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GOBIN=$plugins go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2

PATH="$plugins:$PATH" protoc \
	--go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative \
	internal/sample/samplepb/sample.proto
