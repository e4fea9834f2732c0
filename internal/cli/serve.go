// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/manifold-grpc/manifold/internal/address"
	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/daemon"
)

// defaultDrainTimeout is a little less than the 30 s that Kubernetes gives a pod
// between SIGTERM and SIGKILL.
const defaultDrainTimeout = 25 * time.Second

// serveFlags are the flags of serve, as they were given.
type serveFlags struct {
	config          string
	listen          string
	to              []string
	toCA            string
	tlsCert, tlsKey string
	admin           string
	drainDelay      time.Duration
	drainTimeout    time.Duration
	timeoutGiven    bool // drainTimeout is not the default
	watch           bool
	log             logFlags
}

// newServe makes the command that runs a daemon until a signal.
func newServe(signals <-chan os.Signal) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve --config FILE | --listen ADDRESS --to ENDPOINT,...",
		Short: "Forward calls to backends",
		Long: `Serve runs what a configuration file declares: frontends, backends and routes. Without
one it forwards every call to the given backends, each call to the next one in
turn, also the calls of one client connection. A backend that cannot be reached
loses its turns to the others.

An address is host:port, :port, unix:///path, or systemd:name for a socket that systemd
has opened. An endpoint is host:port for
plaintext HTTP/2, https://host:port for TLS, or unix:///path.

Calls of grpc.health.v1 are answered by the proxy itself; all others, server
reflection too, are forwarded.

SIGHUP reloads the file, and so does a change of it, whole or not at all: one with a
mistake changes nothing. No call and no connection of what stays is lost.

SIGTERM or an interrupt drains: health becomes NOT_SERVING, no new calls are
taken, calls in flight may finish until --drain-timeout. A second signal stops
at once.`,
		Example: `  manifold serve --config manifold.yaml
  manifold serve --listen :8080 --to 10.0.0.1:50051,10.0.0.2:50051
  manifold serve --listen :8443 --tls-cert server.crt --tls-key server.key --to localhost:50051
  manifold serve --listen unix:///run/manifold.sock --to https://api.example.com --to-ca internal-ca.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.timeoutGiven = cmd.Flags().Changed("drain-timeout")
			cfg, err := f.daemon(cmd.ErrOrStderr())
			if err != nil {
				return err
			}

			cfg.Sockets = sockets()
			r := &server{cfg: cfg, signals: signals, drainTimeout: f.drainTimeout, timeoutGiven: f.timeoutGiven}
			if f.watch {
				r.watched = f.config
			}

			return r.serve()
		},
	}

	f.register(cmd.Flags())

	return cmd
}

// sockets returns those that systemd has opened for the process, by their names.
func sockets() map[string][]*os.File {
	named := map[string][]*os.File{}
	for _, f := range activation.Files(true) {
		named[f.Name()] = append(named[f.Name()], f)
	}

	return named
}

// register declares the flags, in the order that help shows them.
func (f *serveFlags) register(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.StringVar(&f.config, "config", "", "configuration `file`, in place of the addresses and files below")
	flags.StringVar(&f.listen, "listen", "", "`address` to take calls on (required without --config)")
	flags.StringSliceVar(&f.to, "to", nil, "`endpoints` to forward to, separated by commas (required without --config)")
	flags.StringVar(&f.toCA, "to-ca", "", "PEM `file` of the authorities that sign the certificates of https:// endpoints (default: the system's)")
	flags.StringVar(&f.tlsCert, "tls-cert", "", "PEM `file` of the certificate chain to serve TLS with (default: plaintext)")
	flags.StringVar(&f.tlsKey, "tls-key", "", "PEM `file` of the certificate's key")
	flags.StringVar(&f.admin, "admin", "", "`address` of the endpoint for operators, such as 127.0.0.1:9901 (default: none)")
	flags.DurationVar(&f.drainDelay, "drain-delay", 0, "`time` to go on taking new calls once health is NOT_SERVING")
	flags.DurationVar(&f.drainTimeout, "drain-timeout", defaultDrainTimeout, "`time` in all that a drain may take before calls are cut off")
	flags.BoolVar(&f.watch, "watch", true, "reload the configuration file when it changes; SIGHUP reloads in either case")
	f.log.register(flags)
}

// daemon turns the flags into a configuration that logs to stderr. Its error has a
// line for each flag that is wrong: whoever mends a command line wants to do it
// once.
func (f *serveFlags) daemon(stderr io.Writer) (daemon.Config, error) {
	if f.config != "" {
		return f.declared(stderr)
	}
	listen, listenErr := f.address()
	endpoints, toErr := f.endpoints()
	log, logErr := f.log.logger(stderr)
	admin, adminErr := f.adminEndpoint()

	return daemon.Config{
		Admin: admin, Level: &f.log.current, Version: version(),
		Listen:     listen,
		TLS:        daemon.ServerTLS{CertFile: f.tlsCert, KeyFile: f.tlsKey},
		Endpoints:  endpoints,
		CAFile:     f.toCA,
		DrainDelay: f.drainDelay,
		Log:        log,
	}, errors.Join(listenErr, toErr, checkPair(f.tlsCert, f.tlsKey), f.checkDrain(), adminErr, logErr)
}

// declared is daemon with a file. The flags that it replaces are errors, rather than ignored.
func (f *serveFlags) declared(stderr io.Writer) (daemon.Config, error) {
	var errs []error
	for name, given := range map[string]bool{
		"--listen": f.listen != "", "--to": len(f.to) > 0, "--to-ca": f.toCA != "",
		"--tls-cert": f.tlsCert != "", "--tls-key": f.tlsKey != "", "--admin": f.admin != "",
	} {
		if given {
			errs = append(errs, fmt.Errorf("%s beside --config: expected it in the file", name))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	_, logErr := f.log.logger(stderr)
	if f.timeoutGiven || f.drainDelay < 0 { // else the file may say it
		errs = append(errs, f.checkDrain())
	}
	if err := errors.Join(append(errs, logErr)...); err != nil {
		return daemon.Config{}, err
	}
	file, err := f.load()
	if err != nil {
		return daemon.Config{}, badFile(err)
	}
	f.log.declare(file.Log)
	log, err := f.log.logger(stderr)
	if err != nil {
		return daemon.Config{}, err
	}

	return daemon.Config{
		Level: &f.log.current, Version: version(), FileName: f.config,
		File: file, Load: f.load,
		DrainDelay: f.drainDelay, Log: log, Relog: f.log.follow,
	}, nil
}

// load reads the file, and checks what it says together with the flags.
func (f *serveFlags) load() (*config.Config, error) {
	file, err := config.Load(f.config)
	if err != nil {
		return nil, err
	}
	delay, timeout := cmp.Or(f.drainDelay, time.Duration(file.Drain.Delay)), f.drainTimeout
	if t := time.Duration(file.Drain.Timeout); t > 0 && !f.timeoutGiven {
		timeout = t
	}
	if timeout < delay {
		return nil, config.Errors{{File: f.config, Message: fmt.Sprintf("a drain of %v in all with a delay of %v, expected at least as much in drain.timeout or --drain-timeout", timeout, delay)}}
	}

	return file, nil
}

// adminEndpoint returns that of the flags, or nil.
func (f *serveFlags) adminEndpoint() (*config.Admin, error) {
	if f.admin == "" {
		return nil, nil
	}
	if err := config.CheckAdmin(f.admin, false); err != nil {
		return nil, fmt.Errorf("--admin %q: %w", f.admin, err)
	}

	return &config.Admin{Listen: f.admin}, nil
}

func (f *serveFlags) address() (address.Address, error) {
	if f.listen == "" {
		return address.Address{}, errors.New("--listen is missing: expected the address to take calls on, such as :8080")
	}
	listen, err := address.ParseListen(f.listen)
	if err != nil {
		return listen, fmt.Errorf("--listen %q: %w", f.listen, err)
	}

	return listen, nil
}

func (f *serveFlags) endpoints() ([]address.Endpoint, error) {
	if len(f.to) == 0 {
		return nil, errors.New("--to is missing: expected the endpoints to forward to, such as localhost:50051,localhost:50052")
	}

	var (
		endpoints []address.Endpoint
		errs      []error
	)
	for _, s := range f.to {
		endpoint, err := address.ParseEndpoint(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("--to %q: %w", s, err))
			continue
		}
		endpoints = append(endpoints, endpoint)
	}

	return endpoints, errors.Join(errs...)
}

// checkPair wants --tls-cert and --tls-key together; whether the files are good is for whoever reads them.
func checkPair(cert, key string) error {
	switch {
	case cert != "" && key == "":
		return errors.New("--tls-key is missing: expected the key of the certificate in --tls-cert")
	case cert == "" && key != "":
		return errors.New("--tls-cert is missing: expected the certificate of the key in --tls-key")
	default:
		return nil
	}
}

// checkDrain also refuses a delay that would leave calls no time to finish.
func (f *serveFlags) checkDrain() error {
	switch {
	case f.drainDelay < 0:
		return fmt.Errorf("--drain-delay %v: expected 0 or more", f.drainDelay)
	case f.drainTimeout < f.drainDelay:
		return fmt.Errorf("--drain-timeout %v: expected at least --drain-delay, %v", f.drainTimeout, f.drainDelay)
	default:
		return nil
	}
}
