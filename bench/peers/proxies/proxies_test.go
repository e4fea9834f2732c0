// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxies

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The configurations say what Config asks for, plaintext or TLS.
func TestConfigurations(t *testing.T) {
	confs := map[string]struct{ conf, threads, plain, tls string }{
		"haproxy": {haproxyConf, "nbthread 3\n", "bind 127.0.0.1:", "ssl crt /both alpn h2"},
		"nginx":   {nginxConf, "worker_processes 3;", "listen 127.0.0.1:", "ssl_certificate_key /key;"},
		"nghttpx": {nghttpxConf, "workers=3\n", ";no-tls\n", "private-key-file=/key\n"},
	}
	for name, c := range confs {
		for _, tls := range []*TLS{nil, {Cert: "/cert", Key: "/key", Both: "/both"}} {
			s, err := newSetup(Config{Backend: "127.0.0.1:4321", Dir: "/dir", Threads: 3, TLS: tls})
			if err != nil {
				t.Fatal(err)
			}
			text, err := s.fill(c.conf)
			if err != nil {
				t.Fatal(err)
			}
			wants := []string{c.threads, s.Port, "4321"}
			if tls == nil {
				wants = append(wants, c.plain)
			} else {
				wants = append(wants, c.tls, "TLS_AES_128_GCM_SHA256")
			}
			for _, want := range wants {
				if !strings.Contains(text, want) {
					t.Errorf("%s, TLS %t: no %q in\n%s", name, tls != nil, want, text)
				}
			}
			if tls == nil && strings.Contains(text, "TLS_AES") {
				t.Errorf("%s: TLS where there is none:\n%s", name, text)
			}
		}
	}
}

// A program that ends at once, or is told to end, leaves nothing behind; what it
// printed is in the error.
func TestProgramThatEnds(t *testing.T) {
	c := Config{Backend: "127.0.0.1:1", Dir: t.TempDir(), Threads: 1}
	_, err := startProgram(t.Context(), c, "sh", "echo no such thing; exit 1\n", "{conf}")
	if err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("error %v, expected what the program printed", err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "sh.conf")); err != nil {
		t.Error(err)
	}
}

func TestProgramThatDoesNotListen(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := startProgram(ctx, Config{Backend: "127.0.0.1:1", Dir: t.TempDir(), Threads: 1}, "sh", "exec sleep 60\n", "{conf}")
	if err == nil || !strings.Contains(err.Error(), "ended before it listened") {
		t.Errorf("error %v, expected that it ended", err)
	}
}

func TestKinds(t *testing.T) {
	if _, err := ByName("squid"); err == nil {
		t.Error("there is a proxy squid")
	}
	for _, name := range append(Defaults(), Direct) {
		if k, err := ByName(name); err != nil || k.Name != name || k.About == "" {
			t.Errorf("proxy %s: %+v, %v", name, k, err)
		}
	}
	k := Kind{Name: "none", Command: "no-such-program"}
	if err := k.Installed(); err == nil || !strings.Contains(err.Error(), "install.sh") {
		t.Errorf("error %v, expected how to install it", err)
	}
	if v := k.Version(t.Context()); v != "" {
		t.Errorf("version %q of what is not there", v)
	}
	sh := Kind{Name: "sh", Command: "sh", VersionFlag: "-c", start: func(context.Context, Config) (*Running, error) { return nil, errors.New("broken") }}
	if err := sh.Installed(); err != nil {
		t.Error(err)
	}
	if _, err := sh.Start(t.Context(), Config{}); err == nil || err.Error() != "sh: broken" {
		t.Errorf("error %v, expected one that names the proxy", err)
	}
}
