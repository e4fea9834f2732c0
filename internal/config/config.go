// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package config is the daemon's configuration file: the structs that hold what it
// says, a strict parser, checks, and what is generated from the structs, a JSON
// Schema and a reference.
//
//	cfg, err := config.Load("manifold.yaml")
//
// The error, [Errors], has all that is wrong with the file at once, each as
// file:line:col. A key that the structs do not have is an error, so a file that is
// accepted does what it says.
//
// The structs are plain data. What a key means is written once, in the tags of its
// field:
//
//	yaml     the key; ",required" if it may not be left out
//	doc      what it means, for the reference and the schema
//	default  what holds without it
//
// Parsing is pure but for what [Source] hands in: the environment and a look at files.
package config

import (
	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/route"
	"github.com/manifold-grpc/manifold/proxy/splice"
)

// Config is a whole file.
type Config struct {
	Frontends []Frontend         `yaml:"frontends,required" doc:"Where calls come in."`
	Backends  map[string]Backend `yaml:"backends" doc:"Where calls go, by names of your choice."`
	Routes    []Route            `yaml:"routes" doc:"Which calls go where. The most specific route that matches a call takes it: an exact host before a wildcard, an exact service before a glob, a method before none, more metadata before less, then the earlier one. A call without a route is answered with UNIMPLEMENTED."`
	Drain     Drain              `yaml:"drain" doc:"How the daemon stops, and what it has a reload remove."`
	Admin     *Admin             `yaml:"admin" doc:"The endpoint for operators: status page, metrics, and more. A change takes a restart." default:"none"`
	AccessLog *AccessLog         `yaml:"access_log" doc:"A line of JSON for each call. A reload can move it, change its headers and turn it off; the rest takes a restart." default:"none"`
	Tracing   *Tracing           `yaml:"tracing" doc:"Spans of calls, sent to a collector by OTLP. A change takes a restart." default:"none"`
	Log       Log                `yaml:"log" doc:"The log for people."`
	Metrics   Metrics            `yaml:"metrics" doc:"Names in metrics."`
}

// Drain is how long what goes away may take.
type Drain struct {
	Delay   Time    `yaml:"delay" doc:"Time on SIGTERM in which new calls are still taken, while health is NOT_SERVING already; at most timeout. The flag --drain-delay goes before it." default:"none"`
	Timeout Time    `yaml:"timeout" doc:"Time on SIGTERM in all, before calls are cut off. The flag --drain-timeout goes before it." default:"25s"`
	Removed OrNever `yaml:"removed" doc:"Time for the calls of a frontend or a backend that a reload removes, before they are cut off." default:"1h"`
}

// Frontend is a listener.
type Frontend struct {
	Name         string          `yaml:"name,required" doc:"Name in the log and in messages."`
	Listen       address.Address `yaml:"listen,required" doc:"Address to listen on; systemd:name is what a socket unit of systemd with this FileDescriptorName listens on."`
	TLS          *FrontendTLS    `yaml:"tls" doc:"TLS 1.2 or later." default:"plaintext HTTP/2"`
	ForwardedFor bool            `yaml:"forwarded_for" doc:"Whether to add x-forwarded-for, -host and -proto to requests. What clients send under these names is dropped in either case." default:"false"`
	Trusted      []Peer          `yaml:"trusted" doc:"Clients whose x-forwarded- headers are kept, and which are not counted for max_connections_per_address: networks such as 10.0.0.0/8, addresses, or unix for all that come by a Unix socket." default:"none"`
	Proxies      []Peer          `yaml:"proxy_protocol" doc:"Load balancers that begin each connection with a header of the PROXY protocol, version 1 or 2, which says where the client is; as in trusted. Connections of others are refused. The header must come within handshake_timeout." default:"no header"`
	SocketMode   Mode            `yaml:"socket_mode" doc:"Permissions of a Unix socket." default:"those that the process gives, less its umask"`
	Limits       Limits          `yaml:"limits" doc:"What clients may cost."`
}

// FrontendTLS is how a frontend speaks TLS.
type FrontendTLS struct {
	Certificates []Certificate `yaml:"certificates,required" doc:"The first one that suits what a client asks for (SNI) is used, else the first. Changed files are used within a second, for new connections."`
	ClientCA     File          `yaml:"client_ca" doc:"PEM file of the authorities that sign the certificates of clients. With it clients must have one, and requests say which in x-forwarded-client-cert." default:"no client certificates"`
}

// Certificate names the files of a certificate.
type Certificate struct {
	Cert File `yaml:"cert,required" doc:"PEM file of the certificate chain, leaf first."`
	Key  File `yaml:"key,required" doc:"PEM file of the key."`
}

// Limits are what clients may cost. Zero fields mean the defaults, which are those of relay.Limits.
type Limits struct {
	MaxConcurrentStreams     Count   `yaml:"max_concurrent_streams" doc:"Calls at once on one connection." default:"100"`
	MaxHeaderBytes           Size    `yaml:"max_header_bytes" doc:"Size of a request's headers." default:"16KiB"`
	MaxHeaderFields          Count   `yaml:"max_header_fields" doc:"Number of a request's headers." default:"128"`
	MaxRequestMessage        Size    `yaml:"max_request_message" doc:"Size of each message of a request; a larger one ends the call with RESOURCE_EXHAUSTED." default:"no limit"`
	StreamWindow             Size    `yaml:"stream_window" doc:"What a client may send on a call before it is read, at first; at least 65535." default:"64KiB"`
	MaxStreamWindow          Size    `yaml:"max_stream_window" doc:"What that may grow to." default:"1MiB"`
	Buffer                   Size    `yaml:"buffer" doc:"Bytes that may wait for slow clients, of all connections together." default:"256MiB"`
	MaxConnections           Count   `yaml:"max_connections" doc:"Connections at once." default:"10000, at most half of the open files allowed"`
	MaxConnectionsPerAddress Count   `yaml:"max_connections_per_address" doc:"Connections at once from one public address." default:"100"`
	HandshakeTimeout         Time    `yaml:"handshake_timeout" doc:"Time for a TLS handshake, and for the header of the PROXY protocol before it." default:"5s"`
	SettingsTimeout          Time    `yaml:"settings_timeout" doc:"Time to the first HTTP/2 frame." default:"10s"`
	IdleTimeout              OrNever `yaml:"idle_timeout" doc:"Time after which a connection without calls is closed." default:"5m"`
	MaxAge                   OrNever `yaml:"max_age" doc:"Age at which a connection is drained, give or take a tenth." default:"1h"`
	MaxAgeGrace              OrNever `yaml:"max_age_grace" doc:"Time for its calls to end." default:"5m"`
	WriteTimeout             Time    `yaml:"write_timeout" doc:"Time after which a client that reads nothing is cut off." default:"30s"`
	MinPingInterval          Time    `yaml:"min_ping_interval" doc:"Time between PINGs of an idle client, of which three may come early." default:"10s"`
	KeepaliveTime            OrNever `yaml:"keepalive_time" doc:"Silence after which a client is asked for a sign of life." default:"2m"`
	KeepaliveTimeout         Time    `yaml:"keepalive_timeout" doc:"Time for its answer." default:"20s"`
}

// BackendTLS is how a backend is spoken to.
type BackendTLS struct {
	CA         File   `yaml:"ca" doc:"PEM file of the authorities that sign the certificates of endpoints." default:"those of the system"`
	ServerName string `yaml:"server_name" doc:"The name to ask for, and that certificates must have." default:"the host of the endpoint"`
	Cert       File   `yaml:"cert" doc:"PEM file of the certificate chain to show to endpoints." default:"none"`
	Key        File   `yaml:"key" doc:"PEM file of its key."`
}

// Route says where the calls go that it matches. It has exactly one of Backend,
// FanOut and Deny.
type Route struct {
	Match             Match          `yaml:"match" doc:"What calls it takes." default:"all"`
	Backend           Targets        `yaml:"backend" doc:"The name of a backend, or a list of backends with weights."`
	FanOut            *FanOut        `yaml:"fan_out" doc:"Sends each call to many endpoints or backends at once, and their answers back as one."`
	Deny              Deny           `yaml:"deny" doc:"Answers calls with this code. true is permission_denied."`
	Mirror            *Mirror        `yaml:"mirror" doc:"Sends a copy of calls to another backend too, whose answers are dropped; never slows or fails a call. Not for one-to-many calls."`
	Methods           *Methods       `yaml:"methods" doc:"Which methods it lets through. Others are answered with PERMISSION_DENIED; no other route takes them." default:"all"`
	MaxDuration       Time           `yaml:"max_duration" doc:"Time for a call, unless the client has set less; then it ends with DEADLINE_EXCEEDED." default:"no limit"`
	IdleTimeout       Time           `yaml:"idle_timeout" doc:"Time in which nothing of a call moves in either direction, after which it ends with DEADLINE_EXCEEDED. One-to-many routes have fan_out.idle_timeout." default:"no limit"`
	MaxRequestMessage Size           `yaml:"max_request_message" doc:"Size of each message of a request, in place of the frontend's limit." default:"that of the frontend"`
	RequestHeaders    *HeaderChanges `yaml:"request_headers" doc:"Changes to the headers of requests: what is to be removed is removed first, then set, then added."`
	ResponseHeaders   *HeaderChanges `yaml:"response_headers" doc:"Changes to the headers with which a backend begins its answer, in the same order. Trailers and the proxy's own errors stay as they are."`
}

// Match is what a route asks of calls; see route.Match.
type Match struct {
	Host     string            `yaml:"host" doc:"The host of :authority, exact or *.example.com." default:"any"`
	Service  string            `yaml:"service" doc:"The full name of a service, exact or a glob such as shop.v1.*." default:"any"`
	Method   string            `yaml:"method" doc:"The name of a method; needs a service." default:"any"`
	Metadata map[string]string `yaml:"metadata" doc:"Keys with the value that one of the call's values must equal, or * for any value."`
}

// route returns m in the terms of package route.
func (m *Match) route() route.Match {
	return route.Match{Host: m.Host, Service: m.Service, Method: m.Method, Metadata: m.Metadata}
}

// Target is a backend with its share of a route's calls.
type Target struct {
	Name   string `yaml:"name,required" doc:"The name of a backend."`
	Weight int    `yaml:"weight,required" doc:"Its share of the calls, relative to the others; 0 is none."`
}

// Layout is a splice.Layout.
type Layout struct {
	Element   int  `yaml:"element" doc:"The repeated field of a unary answer." default:"1"`
	Metadata  int  `yaml:"metadata" doc:"The metadata field of its elements, and of the messages of a stream." default:"99"`
	Hostname  int  `yaml:"hostname" doc:"In the metadata, the string for the source." default:"not written"`
	Error     int  `yaml:"error" doc:"In the metadata, the string for an error." default:"not written"`
	Status    int  `yaml:"status" doc:"In the metadata, the google.rpc.Status of an error." default:"not written"`
	KeepEmpty bool `yaml:"keep_empty" doc:"Leaves an answer without elements as it is." default:"false"`
}

// Splice returns l as package splice takes it.
func (l Layout) Splice() splice.Layout {
	return splice.Layout{
		Element: number(l.Element), Metadata: number(l.Metadata), Hostname: number(l.Hostname),
		Error: number(l.Error), Status: number(l.Status), KeepEmpty: l.KeepEmpty,
	}
}

// HeaderChanges changes headers. Names are in lower case.
type HeaderChanges struct {
	Remove []string          `yaml:"remove" doc:"Names."`
	Set    map[string]string `yaml:"set" doc:"Names and values, in place of what is there."`
	Add    map[string]string `yaml:"add" doc:"Names and values, beside what is there."`
}
