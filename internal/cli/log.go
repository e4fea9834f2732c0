// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/pflag"
)

// logFlags are the flags of commands that log.
type logFlags struct{ level, format string }

// register declares the flags, behind those of the command itself.
func (f *logFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.level, "log-level", "info", "least `level` to log: debug, info, warn or error")
	flags.StringVar(&f.format, "log-format", "text", "`format` of the log: text or json")
}

// logger returns the logger that the flags ask for, writing to w.
func (f *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: expected debug, info, warn or error", f.level)
	}

	switch opts := (&slog.HandlerOptions{Level: level}); f.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	default:
		return nil, fmt.Errorf("--log-format %q: expected text or json", f.format)
	}
}
