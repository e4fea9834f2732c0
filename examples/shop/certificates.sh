#!/bin/sh
# SPDX-FileCopyrightText: The Manifold Authors
# SPDX-License-Identifier: Apache-2.0

# Makes the certificates that manifold.yaml names, beside this file unless another directory is
# given, and those that its clients (client) and the backend catalog (catalog) need. They are valid
# for 30 days and trusted by nobody else. Needs openssl.
set -eu
cd "${1:-$(dirname "$0")}"
umask 077

# authority NAME
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj "/CN=$1" -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
# issue NAME AUTHORITY NAMES
issue() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf 'subjectAltName=%s\n' "$3" >"$1.ext"
  openssl x509 -req -days 30 -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial \
    -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

authority public-ca   # for clients: it signed the frontend's certificate
authority clients     # for the frontend: it signs those of clients
authority internal-ca # for the backend catalog: it signed its endpoints'
issue server public-ca DNS:api.example.com,DNS:localhost
issue client clients DNS:client.example.com
issue catalog internal-ca DNS:catalog.internal
