// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line of manifold: its commands, their flags, and
// what they print. What the commands do is in the packages that they call.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked for did not work
	exitUsage  = 2 // what was asked for makes no sense
)

// Run runs the command that args name (without the program's own name) and
// returns the exit code. Results go to stdout, logs and errors to stderr. A first
// value from signals ends a running command in good order, a second at once, save that
// SIGHUP has serve reload; Run
// reads them and nothing else from the process, so tests may call it.
func Run(args []string, stdout, stderr io.Writer, signals <-chan os.Signal) int {
	root := newRoot(signals)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)

	cmd, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}

	prefix := cmd.CommandPath() + ": "
	if _, ok := errors.AsType[*fileError](err); ok {
		prefix = ""
	}
	for line := range strings.Lines(err.Error()) {
		_, _ = fmt.Fprintf(stderr, "%s%s\n", prefix, strings.TrimSpace(line))
	}
	if _, ok := errors.AsType[*runError](err); ok {
		return exitFailed
	}
	_, _ = fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())

	return exitUsage
}

// runError is an error of what a command does. Every other error is one of the
// command line.
type runError struct{ error }

// Unwrap returns the error that is marked.
func (e *runError) Unwrap() error { return e.error }

// failed marks err, if there is one, as a runError.
func failed(err error) error {
	if err == nil {
		return nil
	}

	return &runError{err}
}

// newRoot makes the command that holds the others, anew for each Run: commands
// keep the flags they have parsed.
func newRoot(signals <-chan os.Signal) *cobra.Command {
	root := &cobra.Command{
		Use:   "manifold",
		Short: "A transparent reverse proxy for gRPC",
		Long: `Manifold is a transparent reverse proxy for gRPC. It forwards calls without
knowing their messages and spreads the calls of one client connection over many
backends.`,
		// Run prints errors, with a hint in place of the whole usage.
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(newServe(signals), newCheck(), newExplain(), newSchema(), newTop(signals), newDemo(signals), newSample(signals), newVersion())

	return root
}
