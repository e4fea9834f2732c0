// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/manifold-grpc/manifold/internal/accesslog"
	"github.com/manifold-grpc/manifold/internal/config"
)

// accessPath returns the path of an access log as package accesslog has it.
func accessPath(l *config.AccessLog) string {
	if l.Path == "stdout" {
		return ""
	}

	return l.Path
}

// openAccess opens the file of the access log that a reload to file moves it to, nil where it stays.
func (o *observer) openAccess(file *config.Config) (*accesslog.Output, error) {
	if o == nil || o.writer == nil || file == nil || file.AccessLog == nil || accessPath(file.AccessLog) == o.path {
		return nil, nil
	}
	out, err := accesslog.OpenOutput(accessPath(file.AccessLog))
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}

	return out, nil
}

// resettle has the access log be as file says, as far as that can change while it is in use. out is from openAccess.
func (o *observer) resettle(file *config.Config, out *accesslog.Output) {
	if o == nil || o.writer == nil || file == nil {
		return
	}
	l := file.AccessLog
	if l == nil {
		o.access.Store(nil)
		return
	}
	if out != nil {
		o.writer.Use(out)
		o.path = accessPath(l)
	}
	if now := o.access.Load(); now == nil || !slices.Equal(now.Headers, l.Headers) {
		o.access.Store(o.logger(l))
	}
}

// relog has the log for people be as a file says that was reloaded.
func (d *Daemon) relog(before, now *config.Config) {
	if before == nil || now == nil || before.Log == now.Log {
		return
	}
	if d.cfg.Relog == nil {
		d.log.Warn("reload: log has changed, which takes a restart")
		return
	}
	if err := d.cfg.Relog(before.Log, now.Log); err != nil {
		d.log.Error("reload: log stays as it was", "error", err)
	}
}

// restartFor returns the settings that differ from those of the start and that a reload cannot change.
func (d *Daemon) restartFor(now *config.Config) (keys []string) {
	start := d.cfg.File
	if start == nil || now == nil {
		return nil
	}
	if !reflect.DeepEqual(start.Admin, now.Admin) {
		keys = append(keys, "admin")
	}
	if !reflect.DeepEqual(start.Tracing, now.Tracing) {
		keys = append(keys, "tracing")
	}
	switch was, is := start.AccessLog, now.AccessLog; {
	case was == nil && is != nil:
		keys = append(keys, "access_log")
	case was != nil && is != nil && was.Progress != is.Progress:
		keys = append(keys, "access_log.progress")
	}

	return keys
}

// warnRestart tells of settings that wait for a restart.
func (d *Daemon) warnRestart(now *config.Config) {
	for _, key := range d.restartFor(now) {
		d.log.Warn("reload: "+key+" is not as in the file, that takes a restart", "key", key, "since", d.started.Format(time.RFC3339))
	}
}
