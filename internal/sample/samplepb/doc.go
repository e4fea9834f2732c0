// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package samplepb is the generated code of sample.proto, the services of the
// sample backend.
package samplepb

//go:generate ./generate.sh
