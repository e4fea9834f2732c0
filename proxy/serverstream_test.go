// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/proxy"
)

// Many goroutines may send through the wrapper. The header goes out once, and being too late with it is no error; nor is being in time.
func TestServerStreamWrapper(t *testing.T) {
	const senders = 20

	conn := dialRaw(t, startBackend(t, func(_ any, s grpc.ServerStream) error {
		w := &proxy.ServerStreamWrapper{ServerStream: s}

		if err := w.SetHeader(metadata.Pairs("set", "1")); err != nil {
			return err
		}

		var running sync.WaitGroup

		for i := range senders {
			running.Go(func() {
				if err := w.SendHeader(metadata.Pairs("sent", fmt.Sprint(i))); err != nil {
					t.Errorf("SendHeader: %v", err)
				}

				if err := w.SendMsg(proxy.NewFrame(fmt.Append(nil, i))); err != nil {
					t.Errorf("SendMsg: %v", err)
				}

				if err := w.SetHeader(metadata.Pairs("late", "1")); err != nil {
					t.Errorf("SetHeader: %v", err)
				}

				w.SetTrailer(metadata.Pairs("trailer", fmt.Sprint(i)))
			})
		}

		running.Wait()

		return nil
	}))

	s := open(t, conn, streamMethod)

	got, err := collect(s)
	if err != nil || len(got) != senders {
		t.Errorf("got %d messages, %v", len(got), err)
	}

	header, _ := s.Header()
	if !slices.Equal(header["set"], []string{"1"}) || len(header["sent"]) != 1 || len(s.Trailer()["trailer"]) != senders {
		t.Errorf("header %v, trailer %v", header, s.Trailer())
	}
}

// A header that is too late because of somebody else is no error either.
func TestServerStreamWrapperAfterHeader(t *testing.T) {
	conn := dialRaw(t, startBackend(t, func(_ any, s grpc.ServerStream) error {
		if err := s.SendHeader(nil); err != nil {
			return err
		}

		w := &proxy.ServerStreamWrapper{ServerStream: s}
		if err := w.SetHeader(metadata.Pairs("late", "1")); err != nil {
			return err
		}

		return w.SendHeader(metadata.Pairs("late", "1"))
	}))

	if _, err := collect(open(t, conn, streamMethod)); err != nil {
		t.Error(err)
	}
}
