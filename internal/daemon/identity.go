// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"strings"
)

// identityHeader tells backends which certificate a client has shown. The relay drops what clients
// themselves send under this name.
const identityHeader = "x-forwarded-client-cert"

// identity returns the value of identityHeader for a verified client, in Envoy's form: the SHA-256 of the
// certificate, its subject, and its names. It is empty for a client without.
func identity(state *tls.ConnectionState) string {
	if state == nil || len(state.VerifiedChains) == 0 {
		return ""
	}

	return identityOf(state.VerifiedChains[0][0])
}

func identityOf(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.Raw)
	parts := []string{"Hash=" + hex.EncodeToString(sum[:]), "Subject=" + quote(leaf.Subject.String())}
	for _, uri := range leaf.URIs {
		parts = append(parts, "URI="+quote(uri.String()))
	}
	for _, name := range leaf.DNSNames {
		parts = append(parts, "DNS="+quote(name))
	}

	return strings.Join(parts, ";")
}

// quote puts a value in quotes. An authority may have signed any text; none shall look like a further field, or be
// refused as a header: what is not printable ASCII becomes a question mark.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r > '~':
			b.WriteByte('?')
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')

	return b.String()
}
