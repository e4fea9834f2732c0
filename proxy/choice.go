// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/fanout"
)

// Choice directs calls to the backends that the caller names in its metadata, one-to-many, within an allow-list.
//
// The key that names them is not forwarded. Its fields must not change once it serves calls.
type Choice struct {
	// Selection is the allow-list, and the metadata key with which callers choose. Known must list the names of Backends,
	// in the order of "*"; it may list fewer.
	Selection fanout.Selection

	// Backends has the backend of each known name.
	Backends map[string]Backend

	// Lookup finds the backend for a name that a pattern of the selection allows and Backends does not have. It may be called by
	// many calls at once. An error that is a status is the answer to the call, any other is reported as codes.Unavailable. When nil,
	// such a name ends the call in codes.NotFound.
	Lookup func(ctx context.Context, name string) (Backend, error)

	// Allowed reports whether a method, as "/package.Service/Method", may be fanned out. When nil all may. A call of
	// another one that names targets ends in codes.PermissionDenied.
	Allowed func(fullMethodName string) bool

	// Fanout is how the calls go; nil: as the handler has it.
	Fanout *Fanout

	// Otherwise directs the calls that name no targets, those with a key without a name among them. When nil they go to all that Selection.Known lists, or are refused if
	// Selection.Required is set, and calls of methods that are not allowed end in codes.Unimplemented.
	Otherwise StreamDirector
}

var _ StreamDirector = (*Choice)(nil).Direct

// Direct is the [StreamDirector].
func (c *Choice) Direct(ctx context.Context, fullMethodName string) (Mode, []Backend, error) {
	md := incoming(ctx)
	named := c.Selection.Chosen(md)
	allowed := c.Allowed == nil || c.Allowed(fullMethodName)

	if call, _ := ctx.Value(callKey{}).(*call); call != nil {
		call.hide = strings.ToLower(c.Selection.Key)
	}

	switch {
	case !named && c.Otherwise != nil:
		return c.Otherwise(ctx, fullMethodName)
	case named && !allowed:
		return 0, nil, status.Errorf(codes.PermissionDenied, "proxy: calls of %s must not name targets", fullMethodName)
	case !allowed:
		return 0, nil, status.Errorf(codes.Unimplemented, "proxy: %s is not forwarded", fullMethodName)
	}

	backends, err := c.choose(ctx, md)
	if err != nil {
		return 0, nil, err
	}

	if c.Fanout != nil {
		err = SetFanout(ctx, c.Fanout)
	}

	return One2Many, backends, err
}

// choose returns the backends that the metadata names.
func (c *Choice) choose(ctx context.Context, md metadata.MD) ([]Backend, error) {
	names, err := c.Selection.Select(md)
	if err != nil {
		return nil, err
	}

	backends := make([]Backend, 0, len(names))

	for _, name := range names {
		b, found := c.Backends[name]

		if !found {
			if b, err = c.lookup(ctx, name); err != nil {
				return nil, err
			}
		}

		backends = append(backends, b)
	}

	return backends, nil
}

func (c *Choice) lookup(ctx context.Context, name string) (Backend, error) {
	if c.Lookup == nil {
		return nil, status.Errorf(codes.NotFound, "proxy: there is no target %q", oneLine(name))
	}

	b, err := c.Lookup(ctx, name)
	if err == nil && b == nil {
		err = status.Errorf(codes.NotFound, "proxy: there is no target %q", oneLine(name))
	}

	return b, statusOrNil(err)
}

// statusOrNil is statusOr for what may be no error.
func statusOrNil(err error) error {
	if err == nil {
		return nil
	}

	return statusOr(codes.Unavailable, err)
}
