#!/bin/sh
# SPDX-FileCopyrightText: The Manifold Authors
# SPDX-License-Identifier: Apache-2.0
#
# Regenerates the Go code of fanout.proto. Needs protoc and Go; the plugin is built
# at the version below, outside of this module's go.mod, which it would only burden.
set -eu
cd "$(dirname "$0")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
GOBIN=$scratch go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
go run fanout/fanoutpb/statusproto.go >"$scratch/imports.binpb"

PATH="$scratch:$PATH" protoc --proto_path=proto --descriptor_set_in="$scratch/imports.binpb" \
	--go_out=. --go_opt=module=github.com/manifold-grpc/manifold \
	manifold/fanout/v1/fanout.proto
