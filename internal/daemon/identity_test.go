// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"strings"
	"testing"
)

// What an authority signs is no way to put a field into the header.
func TestIdentity(t *testing.T) {
	uri, err := url.Parse("spiffe://example.com/\"a\\")
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "x\";Hash=0\né"},
		URIs:     []*url.URL{uri},
		DNSNames: []string{"a.example.com", "b\",c"},
	}
	got := identityOf(leaf)
	_, got, _ = strings.Cut(got, ";")
	want := `Subject="CN=x\\\"\\;Hash=0??";URI="spiffe://example.com/%22a%5C";DNS="a.example.com";DNS="b\",c"`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := identity(nil) + identity(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}); got != "" {
		t.Errorf("identity of a client that is not verified = %q", got)
	}
}
