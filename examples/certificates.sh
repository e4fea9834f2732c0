#!/bin/sh
# SPDX-FileCopyrightText: The Manifold Authors
# SPDX-License-Identifier: Apache-2.0

# Makes the certificates of examples/manifold.yaml, beside this file unless another
# directory is given: an authority (ca), a server for localhost and api.example.com, and a
# client. They are valid for 30 days and trusted by nobody else. Needs openssl.
set -eu
cd "${1:-$(dirname "$0")}"
umask 077

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
  -subj "/CN=example authority" -keyout ca.key -out ca.crt 2>/dev/null

# issue NAME EXTENSIONS
issue() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf '%s\n' "$2" >"$1.ext"
  openssl x509 -req -days 30 -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial \
    -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.csr" "$1.ext"
}
issue server "subjectAltName=DNS:localhost,DNS:api.example.com,IP:127.0.0.1"
issue client "subjectAltName=DNS:client.example.com"
