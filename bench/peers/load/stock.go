// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/manifold-grpc/manifold/bench/peers/backend"
	"github.com/manifold-grpc/manifold/bench/peers/child"
	"github.com/manifold-grpc/manifold/bench/peers/octets"
	"github.com/manifold-grpc/manifold/bench/peers/wire"
)

// StockRole is a load as a process, like Role, but as most users have it: clients of grpc-go's with their
// defaults. They cost far more than those of package wire, so that a proxy waits for nearly every write of theirs. It takes
// plans of a closed loop only.
func StockRole(_ json.RawMessage, session *child.Session) error { return serve(session, &stock{}) }

// stock is a load of grpc-go's clients. It is for one goroutine.
type stock struct {
	plan  Plan
	conns []*grpc.ClientConn
	next  uint64 // of the next worker: its calls have numbers from next << 32 on
}

// Open makes a client for each connection of a plan. They connect at once.
func (s *stock) Open(p Plan) error {
	if err := p.Call.check(); err != nil {
		return err
	}
	if p.Call.Hold || p.Rate > 0 {
		return errors.New("clients of grpc-go neither hold calls nor keep a rate")
	}
	creds := insecure.NewCredentials()
	if p.CA != "" {
		var err error
		if creds, err = credentials.NewClientTLSFromFile(p.CA, "localhost"); err != nil {
			return err
		}
	}
	s.plan = p
	for range p.Connections {
		conn, err := grpc.NewClient("passthrough:///"+p.Addr, grpc.WithTransportCredentials(creds),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(octets.Codec{}), grpc.MaxCallRecvMsgSize(2*wire.MaxMessage)))
		if err != nil {
			return err
		}
		s.conns = append(s.conns, conn)
		conn.Connect()
	}
	return nil
}

// Beside fails: grpc-go's clients read what comes.
func (s *stock) Beside(Plan) error { return errors.New("clients of grpc-go are never slow to read") }

// Close closes all connections.
func (s *stock) Close() {
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
}

// Run keeps calls going on all connections for d, and waits for the last one.
func (s *stock) Run(d time.Duration) (Result, error) {
	ctx, fail := context.WithCancelCause(context.Background()) // without a deadline, which would make each call differ
	defer fail(nil)
	defer time.AfterFunc(d+patience, func() { fail(errors.New("calls hang")) }).Stop()
	begin := time.Now()
	workers := make([]worker, 0, len(s.conns)*s.plan.Streams)
	var running sync.WaitGroup
	for _, conn := range s.conns {
		for range s.plan.Streams {
			workers = append(workers, worker{conn: conn, call: s.plan.Call, number: s.next << 32, end: begin.Add(d)})
			s.next++
			w := &workers[len(workers)-1]
			running.Go(func() { w.all(ctx, fail) }) // ends with the time, or with ctx
		}
	}
	running.Wait()
	wall := time.Since(begin)
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	var (
		latency histogram
		calls   int
	)
	for i := range workers {
		calls += workers[i].calls
		latency.add(&workers[i].latency)
	}
	return Result{calls, wall, latency.quantile(0.5), latency.quantile(0.99)}, nil
}

// worker makes one call after the other.
type worker struct {
	conn   *grpc.ClientConn
	call   Call
	number uint64 // of the next call
	end    time.Time
	calls  int

	latency           histogram
	request, response []byte
}

// all makes calls until the time is over. The first that fails ends those of all workers.
func (w *worker) all(ctx context.Context, fail func(error)) {
	for first := true; first || time.Now().Before(w.end); first = false {
		begin := time.Now()
		if err := w.one(ctx); err != nil {
			fail(fmt.Errorf("call %d: %w", w.number, err))
			return
		}
		w.latency.record(time.Since(begin))
		w.calls++
		w.number++
	}
}

// one makes a call and checks it. grpc-go itself has checked its status.
func (w *worker) one(ctx context.Context) error {
	if w.call.Timeouts {
		d, err := time.ParseDuration(timeoutOf(w.number) + "s") // in microseconds: "us"
		if err != nil {
			return err
		}
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	var header, trailer metadata.MD
	var err error
	if w.call.answers() == 1 {
		w.request = wire.AppendPayload(w.request[:0], w.head(0), w.call.Size)
		if err := w.conn.Invoke(ctx, w.call.path(), &w.request, &w.response, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			return err
		}
		err = w.check(0)
	} else if header, trailer, err = w.stream(ctx); err != nil {
		return err
	}
	return errors.Join(err, carries(header, backend.Headers[4:]), carries(trailer, backend.Trailers[2:]))
}

func (w *worker) head(seq int) wire.Head {
	return wire.Head{Call: w.number, Seq: uint32(seq), Want: uint32(w.call.Pull)}
}

// stream makes a call with more than one answer.
func (w *worker) stream(ctx context.Context) (header, trailer metadata.MD, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, w.call.path())
	if err != nil {
		return nil, nil, err
	}
	for seq := range w.call.answers() {
		if seq < w.call.Trips {
			request := wire.AppendPayload(nil, w.head(seq), w.call.Size)
			if err := st.SendMsg(&request); err != nil && !errors.Is(err, io.EOF) {
				return nil, nil, err
			}
		}
		if seq == w.call.Trips-1 {
			if err := st.CloseSend(); err != nil {
				return nil, nil, err
			}
		}
		if err := st.RecvMsg(&w.response); err != nil {
			return nil, nil, err
		}
		if err := w.check(seq); err != nil {
			return nil, nil, err
		}
	}
	if err := st.RecvMsg(&w.response); !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("%w after the last message, expected the end", err)
	}
	header, err = st.Header()
	return header, st.Trailer(), err
}

// check checks a message of the response.
func (w *worker) check(seq int) error {
	h, err := wire.ParsePayload(w.response)
	if err == nil && (h != w.head(seq) || len(w.response) != w.call.Size) {
		err = fmt.Errorf("message %+v of %d octets, expected %+v of %d", h, len(w.response), w.head(seq), w.call.Size)
	}
	return err
}

// carries tells whether metadata has a field.
func carries(md metadata.MD, field []string) error {
	if got := md.Get(field[0]); len(got) != 1 || got[0] != field[1] {
		return fmt.Errorf("metadata %s is %q, expected %q", field[0], got, field[1])
	}
	return nil
}
