// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/manifold-grpc/manifold/internal/top"
)

// defaultAdmin is where top looks for a daemon: the address that docs and examples give the admin endpoint.
const defaultAdmin = "127.0.0.1:9901"

// leastInterval keeps top from being a load.
const leastInterval = 100 * time.Millisecond

// topFlags are the flags of top, as they were given.
type topFlags struct {
	admin, sort string
	interval    time.Duration
	once        bool
}

// newTop makes the command that shows a running daemon in a terminal.
func newTop(signals <-chan os.Signal) *cobra.Command {
	var f topFlags
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show a running daemon live in the terminal",
		Long: `Top shows a running daemon: its backends with the state of each endpoint, its
frontends and its routes, with rates, errors, calls in flight and latency over the last ten
seconds, and what somebody should see to. It asks the admin endpoint (admin.listen in the
file, or serve --admin), once an interval.

Keys: o, n, r, e, l and f sort by order of the file, name, rate, errors, latency and calls in flight;
the arrows, PgUp, PgDn, Home and End scroll; q quits.

With --once, or where the output is no terminal, it writes one look in full length and ends. The
exit code is 1 if the daemon cannot be asked. With NO_COLOR set there are no colours.`,
		Example: `  manifold top
  manifold top --admin 127.0.0.1:9902 --sort errors
  manifold top --once | grep ejected`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options()
			if err != nil {
				return err
			}
			o.Out, o.In, o.Signals = cmd.OutOrStdout(), os.Stdin, signals
			o.Plain = os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"

			return failed(top.Run(cmd.Context(), o))
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.admin, "admin", defaultAdmin, "`address` of the daemon's admin endpoint")
	flags.DurationVar(&f.interval, "interval", time.Second, "`time` between two looks; the daemon takes its figures once a second")
	flags.StringVar(&f.sort, "sort", "order", "what comes `first`: order (that of the file), name, rate, errors, latency or in-flight")
	flags.BoolVar(&f.once, "once", false, "write one look and end")

	return cmd
}

// options turns the flags into options. Its error has a line for each flag that is wrong.
func (f *topFlags) options() (top.Options, error) {
	url, adminErr := top.BaseURL(f.admin)
	if adminErr != nil {
		adminErr = fmt.Errorf("--admin %q: %w", f.admin, adminErr)
	}
	sort, sortErr := top.ParseSort(f.sort)
	if sortErr != nil {
		sortErr = fmt.Errorf("--sort %q: %w", f.sort, sortErr)
	}
	var intervalErr error
	if f.interval < leastInterval {
		intervalErr = fmt.Errorf("--interval %v: expected at least %v", f.interval, leastInterval)
	}

	return top.Options{URL: url, Interval: f.interval, Sort: sort, Once: f.once}, errors.Join(adminErr, sortErr, intervalErr)
}
