// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package check holds the examples for containers to their formats, as tests: the manifests of Kubernetes
// to its API types, the compose file to its schema, the Dockerfile to BuildKit's parser. It has no code to
// import, and is a module of its own because of what these need.
package check
