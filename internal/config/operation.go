// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/manifold-grpc/manifold/internal/address"
)

// Admin is the endpoint for operators.
type Admin struct {
	Listen      string   `yaml:"listen,required" doc:"Address to listen on, host:port; of this machine alone, such as 127.0.0.1:9901, unless allow_remote is true."`
	AllowRemote bool     `yaml:"allow_remote" doc:"Whether others than this machine may reach it. Nobody is asked who they are." default:"false"`
	Hosts       []string `yaml:"hosts" doc:"Names by which browsers and clients may call it besides its addresses and localhost." default:"none"`
}

// AccessLog is where a line for each call goes.
type AccessLog struct {
	Path     string   `yaml:"path,required" doc:"File to append to, or stdout; a relative path is relative to where the daemon was started. It is opened again on SIGHUP, and when it was renamed."`
	Progress OrNever  `yaml:"progress" doc:"Time after which a call that goes on gets a further line, after one that it gets when it is 10s old." default:"5m"`
	Headers  []string `yaml:"headers" doc:"Request headers to log besides user-agent and x-request-id, in lower case." default:"none"`
}

// Tracing is what is traced, and where spans go.
type Tracing struct {
	Endpoint     address.Endpoint  `yaml:"endpoint,required" doc:"The collector that spans are sent to by OTLP/gRPC; mostly of port 4317."`
	TLS          *BackendTLS       `yaml:"tls" doc:"TLS to the collector; an empty one, {}, is TLS with the system's authorities." default:"TLS only with https://"`
	Headers      map[string]string `yaml:"headers" doc:"Metadata of each export, such as what the collector knows its senders by. Names in lower case." default:"none"`
	Sample       *Ratio            `yaml:"sample" doc:"Share of the calls to sample whose caller does not say, by a traceparent header, whether it does." default:"0.01"`
	IgnoreCaller bool              `yaml:"ignore_caller" doc:"Have sample decide on all calls, on those too whose caller says, by a traceparent header, whether to sample." default:"false"`
	ServiceName  string            `yaml:"service_name" doc:"Who the spans are from." default:"manifold"`
}

// DefaultSample is the default of Tracing.Sample.
const DefaultSample Ratio = 0.01

// Log is the log for people.
type Log struct {
	Level  LogLevel  `yaml:"level" doc:"Least level to log. The flag --log-level goes before it, and the admin endpoint changes it." default:"info"`
	Format LogFormat `yaml:"format" doc:"Format of a line; auto is text on a terminal, else json. The flag --log-format goes before it." default:"text"`
}

// Metrics is what the metrics are made of.
type Metrics struct {
	Descriptors []File `yaml:"descriptors" doc:"Files with a FileDescriptorSet, as protoc --descriptor_set_out writes. The methods in them have names in metrics; others have that of their route's match." default:"none"`
}

// LogLevel is a level of the log; empty for the default.
type LogLevel string

// LogFormat is a format of the log; empty for the default.
type LogFormat string

var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"auto", "text", "json"}
)

// wordOf parses one of a few words.
func wordOf[T ~string](words []string) scalar {
	return scalar{
		parse: func(s string) (any, error) {
			if !slices.Contains(words, s) {
				return nil, errUnknown
			}

			return T(s), nil
		},
		expected: either(words), enum: words,
	}
}

// operation checks what is for operators.
func (c *checker) operation() {
	if a := c.config.Admin; a != nil && a.Listen != "" {
		if err := CheckAdmin(a.Listen, a.AllowRemote); err != nil {
			c.fail("admin.listen", "%q: %v", a.Listen, err)
		}
	}
	if t := c.config.Tracing; t != nil {
		c.tracing(t)
	}
	l := c.config.AccessLog
	if l == nil {
		return
	}
	if l.Path == "" && !c.broken["access_log"] {
		c.fail("access_log.path", "no path, expected that of a file, or stdout")
	}
	for i, name := range l.Headers {
		if !goodHeader(name) {
			c.fail(fmt.Sprintf("access_log.headers[%d]", i), "header %q, expected a name in lower case of letters, digits, - _ and .", name)
		}
	}
}

func (c *checker) tracing(t *Tracing) {
	if tls := t.TLS; tls != nil && (tls.Cert == "") != (tls.Key == "") && !c.broken["tracing.tls"] {
		c.fail("tracing.tls", "one of cert and key, expected both or none")
	}
	for _, name := range slices.Sorted(maps.Keys(t.Headers)) {
		at := join("tracing.headers", name)
		switch {
		case !goodHeader(name) || strings.HasPrefix(name, "grpc-"):
			c.fail(at, "header %q, expected a name in lower case of letters, digits, - _ and ., not of gRPC's own", name)
		case strings.ContainsFunc(t.Headers[name], func(r rune) bool { return r < ' ' || r > '~' }):
			c.fail(at, "value of %q, expected printable ASCII", name)
		}
	}
}

// CheckAdmin returns what is wrong with an address for the admin endpoint.
func CheckAdmin(listen string, allowRemote bool) error {
	host, _, err := net.SplitHostPort(listen)
	switch {
	case err != nil:
		return errors.New("not an address, expected host:port such as 127.0.0.1:9901")
	case allowRemote || strings.EqualFold(host, "localhost"):
		return nil
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return errors.New("others could reach it, expected an address of this machine alone such as 127.0.0.1:9901, or allow_remote: true")
	}

	return nil
}
