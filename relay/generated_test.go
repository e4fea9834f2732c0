// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package relay_test

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"
)

// kind is the course that a generated call takes. Each is such that what both ends see
// does not depend on who is faster.
type kind int

const (
	kindUnary     kind = iota
	kindUpload         // many requests, one response
	kindDownload       // one request, many responses
	kindLockstep       // each request is answered before the next
	kindUncoupled      // both sides send without looking at each other
	kindFail           // the server answers with nothing but a status
	kindEarlyEnd       // the server ends while the client sends
	kindCancel         // the client cancels once it has the responses
	kindDeadline       // nobody does anything until time is up
	kinds
)

var kindNames = [...]string{"unary", "upload", "download", "lockstep", "uncoupled", "fail", "early end", "cancel", "deadline"}

func (k kind) String() string { return kindNames[k] }

// generated is a call: what the client sends, and what the server answers.
type generated struct {
	id        int
	kind      kind
	method    string
	timeout   time.Duration // 0: none
	md        metadata.MD
	upBy      string // compressors; "" is none
	downBy    string
	up        []int // sizes of messages
	down      []int
	header    metadata.MD
	eager     bool // the header goes out before anything else happens
	trailer   metadata.MD
	status    *rpcstatus.Status
	halfClose bool // the client ends its side before it reads
}

// generate returns the call of a number: the same each time.
func generate(seed uint64, id int) *generated {
	r := rand.New(rand.NewPCG(seed, uint64(id)))
	g := &generated{
		id: id, kind: kind(r.IntN(int(kindDeadline))),
		method: fmt.Sprintf("/pkg.v%d.Service_%d/Do-%s", r.IntN(3), r.IntN(9), word(r, "abc.xyz", 1, 10)),
		md:     randomMD(r), header: randomMD(r), trailer: randomMD(r), eager: r.IntN(3) == 0,
		upBy: pick(r, "", "", "gzip", "rot"), downBy: pick(r, "", "", "gzip", "rot"),
		status: randomStatus(r), halfClose: r.IntN(2) == 0,
	}
	if r.IntN(50) == 0 { // they take their time
		g.kind = kindDeadline
	}
	g.up, g.down = randomSizes(r), randomSizes(r)
	switch g.kind {
	case kindUnary:
		g.up, g.down = append(g.up, size(r))[:1], append(g.down, size(r))[:1]
	case kindUpload:
		g.down = append(g.down, size(r))[:1]
	case kindDownload:
		g.up = append(g.up, size(r))[:1]
	case kindLockstep:
		n := min(len(g.up), len(g.down))
		g.up, g.down = g.up[:n], g.down[:n]
	case kindCancel:
		g.down = append(g.down, size(r)) // by which the client knows that the server is there
	case kindFail:
		g.up, g.down = append(g.up, size(r))[:1], nil
	}
	switch {
	case g.kind == kindDeadline:
		g.timeout = time.Duration(20+r.IntN(20)) * time.Millisecond
	case r.IntN(3) == 0:
		g.timeout = time.Duration(30+r.IntN(100_000)) * time.Second
	}
	return g
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func word(r *rand.Rand, letters string, from, to int) string {
	rs := []rune(letters)
	var b strings.Builder
	for range from + r.IntN(to-from+1) {
		b.WriteRune(rs[r.IntN(len(rs))])
	}
	return b.String()
}

func bytesOf(r *rand.Rand, n int) string {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return string(p)
}

const visible = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCXYZ[\\]^_`abcxyz{|}~"

func randomMD(r *rand.Rand) metadata.MD {
	md := metadata.MD{}
	for range r.IntN(6) {
		key := "x-" + word(r, "abcdef0123_-.", 1, 12)
		for range 1 + r.IntN(3) {
			switch r.IntN(8) {
			case 0, 1:
				md.Append(key+"-bin", bytesOf(r, r.IntN(100)))
			case 2:
				md.Append(key+"-bin", word(r, "世界ñ\x00", 0, 20))
			case 3:
				md.Append(key, "")
			case 4:
				md.Append(key, word(r, visible, 1, 2000))
			case 5:
				md.Append("authorization", "Bearer "+base64.StdEncoding.EncodeToString([]byte(bytesOf(r, 30))))
			default:
				md.Append(key, word(r, visible, 1, 40))
			}
		}
	}
	return md
}

func randomStatus(r *rand.Rand) *rpcstatus.Status {
	if r.IntN(10) < 6 {
		return &rpcstatus.Status{}
	}
	s := &rpcstatus.Status{Code: int32(1 + r.IntN(16))}
	if r.IntN(20) == 0 {
		s.Code = int32(17 + r.IntN(1000))
	}
	switch r.IntN(4) {
	case 0:
		s.Message = word(r, visible, 0, 60)
	case 1:
		s.Message = word(r, "世界ñ% \t\r\n\x00\x7f", 0, 60)
	case 2:
		s.Message = word(r, visible, 1000, 3000)
	}
	for range r.IntN(3) {
		s.Details = append(s.Details, &anypb.Any{TypeUrl: "type.test/" + word(r, "abc", 1, 9), Value: []byte(bytesOf(r, r.IntN(200)))})
	}
	return s
}

func randomSizes(r *rand.Rand) []int {
	sizes := make([]int, r.IntN(6))
	for i := range sizes {
		sizes[i] = size(r)
	}
	return sizes
}

// size is small mostly, and at times around what frames and windows hold.
func size(r *rand.Rand) int {
	switch n := r.IntN(100); {
	case n < 10:
		return 0
	case n < 85:
		return r.IntN(2000)
	case n < 97:
		return pick(r, 16<<10, 32<<10, 64<<10) - 10 + r.IntN(20)
	default:
		return r.IntN(400_000)
	}
}

// content returns the message of a size: the same for the same call and place.
func (g *generated) content(dir string, i, n int) string {
	unit := fmt.Sprintf("%d %s %d|", g.id, dir, i)
	return strings.Repeat(unit, n/len(unit)+1)[:n]
}
