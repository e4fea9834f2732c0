// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"github.com/manifold-grpc/manifold/internal/config"
)

// logFlags are the flags of commands that log.
type logFlags struct {
	level, format string
	flags         *pflag.FlagSet
	current       slog.LevelVar // of the logger made last
}

// register declares the flags, behind those of the command itself.
func (f *logFlags) register(flags *pflag.FlagSet) {
	f.flags = flags
	flags.StringVar(&f.level, "log-level", "info", "least `level` to log: debug, info, warn or error")
	flags.StringVar(&f.format, "log-format", "text", "`format` of the log: text, json, or auto for text on a terminal and json elsewhere")
}

// logger returns the logger that the flags ask for, writing to w.
func (f *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: expected debug, info, warn or error", f.level)
	}
	f.current.Set(level)
	format := f.format
	if format == "auto" {
		format = "json"
		if terminal(w) {
			format = "text"
		}
	}

	switch opts := (&slog.HandlerOptions{Level: &f.current}); format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	default:
		return nil, fmt.Errorf("--log-format %q: expected text, json or auto", f.format)
	}
}

// declare takes over what a file says and no flag does.
func (f *logFlags) declare(l config.Log) {
	if l.Level != "" && !f.flags.Changed("log-level") {
		f.level = string(l.Level)
	}
	if l.Format != "" && !f.flags.Changed("log-format") {
		f.format = string(l.Format)
	}
}

// terminal reports whether a person reads what is written to w.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()

	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
