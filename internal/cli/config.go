// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/manifold-grpc/manifold/internal/config"
	"github.com/manifold-grpc/manifold/internal/daemon"
)

// newCheck makes the command that says what is wrong with a file.
func newCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file",
		Long: `Check says all that is wrong with a configuration file, each as
file:line:col: what, expected what. It reads the file as serve does, with the
variables of the environment, and loads the certificates, keys and authorities that it names.

It is silent about a good file. The exit code is 1 for a bad one.`,
		Example: `  manifold check manifold.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%d files: expected one configuration file, such as manifold.yaml", len(args))
			}

			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			file, err := config.Load(args[0])
			if err != nil {
				return badFile(err)
			}
			_, err = daemon.New(daemon.Config{File: file})

			return failed(err)
		},
	}
}

// fileError is what is wrong with a configuration file. Its lines begin with their places, as
// compilers write them, for editors to jump to.
type fileError struct{ error }

// Unwrap returns the error that is marked.
func (e *fileError) Unwrap() error { return e.error }

// badFile marks an error of package config, if there is one.
func badFile(err error) error {
	if errs, ok := errors.AsType[config.Errors](err); ok {
		return failed(&fileError{errs})
	}

	return failed(err)
}

// newSchema makes the command that prints the JSON Schema of the file.
func newSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration file",
		Long: `Schema prints the JSON Schema of the configuration file, with which editors complete
and check it.`,
		Example: `  manifold schema > manifold.schema.json
  # and in manifold.yaml: # yaml-language-server: $schema=manifold.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema())

			return failed(err)
		},
	}
}

// explainFlags are the flags of explain, as they were given.
type explainFlags struct {
	config, host, method string
	metadata             []string
}

// newExplain makes the command that says which route a call takes.
func newExplain() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain --config FILE --method /SERVICE/METHOD",
		Short: "Say which route a call takes, and why",
		Long: `Explain says which route of a configuration file a call takes, by what it matches, where it
goes, and why no other route takes it. Nothing needs to run for that.`,
		Example: `  manifold explain --config manifold.yaml --host api.example.com --method /shop.v1.Catalog/List
  manifold explain --config manifold.yaml --method /shop.v1.Catalog/List --metadata tier=gold`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.query()
			if err != nil {
				return err
			}

			return badFile(config.ExplainFile(cmd.OutOrStdout(), f.config, q))
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.config, "config", "", "configuration `file` (required)")
	flags.StringVar(&f.host, "host", "", "the call's `host`, its :authority")
	flags.StringVar(&f.method, "method", "", "the call's `method`, /service/method (required)")
	flags.StringArrayVar(&f.metadata, "metadata", nil, "metadata of the call, `key=value`; may be given again")

	return cmd
}

// query turns the flags into a call. Its error has a line for each flag that is wrong.
func (f *explainFlags) query() (config.Query, error) {
	var errs []error
	if f.config == "" {
		errs = append(errs, errors.New("--config is missing: expected a configuration file"))
	}
	service, method, ok := strings.Cut(strings.TrimPrefix(f.method, "/"), "/")
	if !ok || service == "" || method == "" || strings.Contains(method, "/") || f.method[0] != '/' {
		errs = append(errs, fmt.Errorf("--method %q: expected /service/method, such as /shop.v1.Catalog/List", f.method))
	}
	q := config.Query{Host: f.host, Service: service, Method: method, Metadata: map[string][]string{}}
	for _, pair := range f.metadata {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			errs = append(errs, fmt.Errorf("--metadata %q: expected key=value", pair))
			continue
		}
		key = strings.ToLower(key)
		q.Metadata[key] = append(q.Metadata[key], value)
	}

	return q, errors.Join(errs...)
}
