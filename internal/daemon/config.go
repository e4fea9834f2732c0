// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/proxy/splice"
)

// Address and Endpoint are those of package address, which parses them.
type (
	Address  = address.Address
	Endpoint = address.Endpoint
)

// Config is what a daemon is to do. It is plain data; New takes a copy of it and
// reads the files it names.
type Config struct {
	// File is what a configuration file declares, as package config returns it. With it
	// Listen, TLS, Endpoints, CAFile and FanOut have to be empty. Default: these.
	File *config.Config
	// Load reads that file, at New where File is nil, and anew at each Reload. Default: a Reload finds the
	// same as before, with the contents of now of the files that are named.
	Load func() (*config.Config, error)
	// Listen is where calls come in. Required.
	Listen Address
	// TLS is how the listener speaks TLS. The zero value is plaintext HTTP/2.
	TLS ServerTLS
	// Endpoints are the backends. Each call goes to the next one in turn, also
	// the calls of one client connection. Required.
	Endpoints []Endpoint
	// CAFile is a PEM file of the authorities that may have signed the
	// certificates of TLS endpoints. Default: those of the system.
	CAFile string
	// FanOut is what goes to all endpoints at once. Default: nothing.
	FanOut FanOut
	// DrainDelay is how long a draining daemon still takes new calls, while its
	// health is NOT_SERVING already, so that load balancers can turn away from
	// it first. Default: what the file says, else 0, no time.
	DrainDelay time.Duration
	// Sockets are those that systemd has opened, by their names, for frontends that listen there. The daemon listens on copies
	// and closes none of them. Default: none.
	Sockets map[string][]*os.File
	// Admin is the endpoint for operators. With File it has to be in the file. Default: none.
	Admin *config.Admin
	// Level is the level of Log, for the admin endpoint to show and change. Default: one that changes nothing.
	Level *slog.LevelVar
	// Relog has Log be as a reloaded file says, which says something else than the one before. Default: a warning that it takes
	// a restart.
	Relog func(before, now config.Log) error
	// Version and FileName are for people.
	Version, FileName string
	// Log gets what an operator should know. Default: nothing is logged.
	Log *slog.Logger
}

// ServerTLS names PEM files: a certificate chain, leaf first, and its key.
type ServerTLS struct {
	CertFile, KeyFile string
}

// FanOut selects the calls that go to all endpoints and whose answers come back
// as one.
type FanOut struct {
	// Services are full names of services, such as "shop.v1.Catalog". Answers
	// of unary methods are concatenated, messages of streams interleave.
	Services []string
	// Layout says where in an answer the endpoint that gave it, or its error,
	// is written. The zero value writes nothing, and an error fails the call.
	Layout splice.Layout
	// Streaming reports whether a method, "/service/method", is a streaming one.
	// Nil means that all are, with which unary methods do not work.
	Streaming func(fullMethod string) bool
}

// check returns all that can be said against the configuration without looking
// at files, one line each.
func (c *Config) check() error {
	if c.File != nil {
		return c.checkFile()
	}

	var errs []error
	if c.Listen == (Address{}) {
		errs = append(errs, errors.New("no address to listen on"))
	}
	if len(c.Endpoints) == 0 {
		errs = append(errs, errors.New("no backend endpoint"))
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, errors.New("TLS needs a certificate file and a key file, only one is given"))
	}

	anyTLS := false
	seen := make(map[Endpoint]bool, len(c.Endpoints))
	for _, e := range c.Endpoints {
		if seen[e] {
			errs = append(errs, fmt.Errorf("endpoint %q is given twice", e))
		}
		seen[e] = true
		anyTLS = anyTLS || e.TLS
	}
	if c.CAFile != "" && !anyTLS {
		errs = append(errs, fmt.Errorf("CA file %q has no use: no endpoint is https://", c.CAFile))
	}

	return errors.Join(errs...)
}

// checkFile finds what is declared twice. What is in the file is checked already.
func (c *Config) checkFile() error {
	if c.Listen != (Address{}) || c.TLS != (ServerTLS{}) || len(c.Endpoints) > 0 || c.CAFile != "" || len(c.FanOut.Services) > 0 {
		return errors.New("a file beside addresses, certificates or endpoints, expected one of them")
	}

	return nil
}
