# SPDX-FileCopyrightText: The Manifold Authors
# SPDX-License-Identifier: Apache-2.0

# Every command here is a plain one that may be typed instead; nothing is built
# by make alone. A target's "## text" is its line in `make help`.

.DEFAULT_GOAL := help
.PHONY: help demo test race build fmt lint conformance compat bench-library bench-peers clients generate tidy check clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## run the proxy before three sample backends and show what it does
	go run ./cmd/manifold demo

test: ## run the tests of the main module, with Go alone
	go test -shuffle=on ./...

race: ## run them under the race detector (needs a C compiler)
	go test -race -shuffle=on ./...

build: ## build bin/manifold
	go build -trimpath -o bin/ ./cmd/manifold

fmt: ## format and modernise the source
	gofmt -w $$(git ls-files '*.go')
	go fix ./...

lint: ## run the linters on every module (the list and its reasons: tools/lint)
	tools/lint

conformance: ## run third-party suites against the relay (h2spec, gRPC interop, Connect)
	cd conformance && go run .

compat: ## run the ancestor's own tests against package proxy
	cd compat && go test ./...

bench-library: ## measure package proxy beside its ancestor, CPU and memory per call
	cd bench && go run ./cmd/library

bench-peers: ## measure the relay beside other proxies (docs/benchmarks.md)
	cd bench/peers && go run .
clients: ## run grpcurl, Python and Node.js against the daemon (needs: clients/README.md)
	cd clients && go test -count=1 -v .

generate: ## generate the code of all .proto files anew (needs protoc)
	go generate ./internal/sample/... ./fanout/...

tidy: ## tidy the go.mod of every module
	@for m in $$(git ls-files '*go.mod'); do echo "$$m"; (cd "$$(dirname "$$m")" && go mod tidy) || exit 1; done

check: lint race ## lint and race: what a change must pass

clean: ## remove what make built
	rm -rf bin
