// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/spf13/pflag"

	"github.com/manifold-grpc/manifold/internal/config"
)

// logFlags are the flags of commands that log.
type logFlags struct {
	level, format string
	flags         *pflag.FlagSet
	current       slog.LevelVar // of the logger made last
	json          atomic.Bool   // whether the logger made last writes JSON now, else text
	terminal      bool          // whether it writes to one
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
	f.terminal = terminal(w)
	switch f.format {
	case "text", "json", "auto":
		f.json.Store(f.writesJSON(f.format))
	default:
		return nil, fmt.Errorf("--log-format %q: expected text, json or auto", f.format)
	}
	opts := &slog.HandlerOptions{Level: &f.current}

	return slog.New(&eitherHandler{slog.NewTextHandler(w, opts), slog.NewJSONHandler(w, opts), &f.json}), nil
}

// writesJSON reports whether a format is JSON here.
func (f *logFlags) writesJSON(format string) bool {
	return format == "json" || format == "auto" && !f.terminal
}

// follow has the logger made last be as a reloaded file says, where the file before said something else and no flag goes before it. Hence
// a level that was set at run time stays until the file has another.
func (f *logFlags) follow(before, now config.Log) error {
	if now.Level != before.Level && !f.flags.Changed("log-level") {
		var level slog.Level // info where the file says nothing
		if now.Level != "" {
			if err := level.UnmarshalText([]byte(now.Level)); err != nil {
				return err
			}
		}
		f.current.Set(level)
	}
	if now.Format != before.Format && !f.flags.Changed("log-format") {
		f.json.Store(f.writesJSON(string(now.Format)))
	}

	return nil
}

// eitherHandler is one of two handlers, which may change at any time.
type eitherHandler struct {
	text, json slog.Handler
	isJSON     *atomic.Bool
}

// Enabled implements slog.Handler.
func (h *eitherHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.text.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h *eitherHandler) Handle(ctx context.Context, r slog.Record) error {
	if h.isJSON.Load() {
		return h.json.Handle(ctx, r)
	}

	return h.text.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *eitherHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &eitherHandler{h.text.WithAttrs(attrs), h.json.WithAttrs(attrs), h.isJSON}
}

// WithGroup implements slog.Handler.
func (h *eitherHandler) WithGroup(name string) slog.Handler {
	return &eitherHandler{h.text.WithGroup(name), h.json.WithGroup(name), h.isJSON}
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
