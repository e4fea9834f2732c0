// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/manifold-grpc/manifold/internal/config"
)

// What a reloaded file says of the log holds, also for loggers that were derived before; flags go before it, and a level of the admin
// endpoint stays until the file has another.
func TestLogFollowsFile(t *testing.T) {
	var out bytes.Buffer
	var f logFlags
	f.register(pflag.NewFlagSet("", pflag.ContinueOnError))
	root, err := f.logger(&out)
	if err != nil {
		t.Fatal(err)
	}
	log := root.With("a", 1).WithGroup("g")
	step := func(before, now config.Log, level slog.Level, json bool) {
		t.Helper()
		if err := f.follow(before, now); err != nil {
			t.Fatal(err)
		}
		out.Reset()
		log.Log(t.Context(), level, "hello", "b", 2)
		want := "a=1 g.b=2"
		if json {
			want = `"a":1,"g":{"b":2}`
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("wrote %q, want %q in it", out.String(), want)
		}
		out.Reset()
		log.Log(t.Context(), level-1, "hello")
		if out.Len() > 0 {
			t.Errorf("wrote %q below the level", out.String())
		}
	}
	none := config.Log{}
	step(none, none, slog.LevelInfo, false)
	step(none, config.Log{Level: "warn", Format: "json"}, slog.LevelWarn, true)
	step(config.Log{Level: "warn", Format: "json"}, config.Log{Level: "debug", Format: "auto"}, slog.LevelDebug, true) // no terminal
	f.current.Set(slog.LevelError)
	step(config.Log{Level: "debug", Format: "auto"}, config.Log{Level: "debug", Format: "auto"}, slog.LevelError, true)
	step(config.Log{Level: "debug", Format: "json"}, none, slog.LevelInfo, false)
	for _, args := range [][]string{{"log-level", "error"}, {"log-format", "json"}} {
		if err := f.flags.Set(args[0], args[1]); err != nil {
			t.Fatal(err)
		}
	}
	step(none, config.Log{Level: "debug", Format: "json"}, slog.LevelInfo, false)
}
