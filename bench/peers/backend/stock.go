// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/bench/peers/octets"
	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

// StockRole is a backend as a process, like Role, but as most users have it: a server of grpc-go's with its
// defaults. Its configuration is of no meaning to it.
func StockRole(_ json.RawMessage, session *child.Session) error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := ServeStock(lis)
	defer s.Close()
	return session.Serve(Hello{Addr: lis.Addr().String()}, func(json.RawMessage) (any, error) {
		return Answer{Fault: s.Fault()}, nil
	})
}

// Stock is a running server of grpc-go's that answers the methods on grpc-go, and remembers what clients did wrong.
type Stock struct {
	blame
	grpc   *grpc.Server
	served chan struct{} // closed when Serve has returned
}

// ServeStock serves lis until Close.
func ServeStock(lis net.Listener) *Stock {
	s := &Stock{served: make(chan struct{})}
	s.grpc = grpc.NewServer(grpc.ForceServerCodecV2(octets.Codec{}), grpc.MaxRecvMsgSize(2*wire.MaxMessage), grpc.UnknownServiceHandler(s.handle))
	go func() { // ends with Close
		defer close(s.served)
		_ = s.grpc.Serve(lis)
	}()
	return s
}

// Close ends the server and its connections.
func (s *Stock) Close() {
	s.grpc.Stop()
	<-s.served
}

func (s *Stock) handle(_ any, st grpc.ServerStream) error {
	err := answer(st)
	if err != nil && st.Context().Err() == nil { // else its client went, as they do when the load ends
		s.note(err)
		return status.Error(codes.Internal, err.Error())
	}
	return err
}

// What each response has beside the fields of gRPC itself, which grpc-go checks.
var (
	leading  = metadata.Pairs(Headers[4], Headers[5])
	trailing = metadata.Pairs(Trailers[2], Trailers[3])
)

// answer answers a call. An error says what is wrong with it.
func answer(st grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(st)
	switch method {
	case PathEcho, PathPull:
	case PathTimed:
		if deadline, ok := st.Context().Deadline(); !ok || time.Until(deadline) > MaxTimeout {
			return fmt.Errorf("deadline %v, expected one of at most %v", deadline, MaxTimeout)
		}
	default:
		return fmt.Errorf("no method %q", method)
	}
	if err := st.SetHeader(leading); err != nil {
		return err
	}
	st.SetTrailer(trailing)
	var m []byte
	for seq := uint32(0); ; seq++ {
		err := st.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		h, err := wire.ParsePayload(m)
		if err != nil {
			return err
		}
		if h.Seq != seq {
			return fmt.Errorf("message %d of a call says that it is number %d", seq, h.Seq)
		}
		if method != PathPull {
			echo := m
			if m, err = nil, st.SendMsg(&echo); err != nil {
				return err
			}
			continue
		}
		for i := range h.Want {
			h.Seq = i
			next := wire.AppendPayload(nil, h, len(m))
			if err := st.SendMsg(&next); err != nil {
				return err
			}
		}
	}
}
