// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"fmt"

	"golang.org/x/net/http2/hpack"
)

// tableSize is the HPACK table that either side may use, the initial one of RFC
// 7541.
const tableSize = 4096

// rememberedBlocks bounds the blocks a decoder remembers: those of a benchmark are
// few, unless each differs.
const rememberedBlocks = 64

// Block is a decoded header block, without repeated fields. It is read-only and
// may be kept.
type Block struct {
	fields map[string]string
	// Verdict is for whoever gets the block: blocks that are alike are the same
	// *Block, so what was found out about one holds for all.
	Verdict any
}

// Get returns the value of the field of that name, or "".
func (b *Block) Get(name string) string { return b.fields[name] }

// Template is a header list that is sent often. Make it with NewTemplate.
type Template struct{ fields []hpack.HeaderField }

// NewTemplate returns a template of names and values in turn.
func NewTemplate(namesAndValues ...string) *Template {
	t := new(Template)
	for i := 0; i < len(namesAndValues); i += 2 {
		t.fields = append(t.fields, hpack.HeaderField{Name: namesAndValues[i], Value: namesAndValues[i+1]})
	}
	return t
}

// blockWriter encodes the header blocks of one connection, as grpc-go does: every
// field goes into the table.
type blockWriter struct {
	enc   *hpack.Encoder
	buf   bytes.Buffer
	known map[*Template][]byte // what a template encodes to while the table stays as it is
}

func newBlockWriter() *blockWriter {
	w := &blockWriter{known: map[*Template][]byte{}}
	w.enc = hpack.NewEncoder(&w.buf)
	return w
}

// setTableSize obeys the peer's SETTINGS_HEADER_TABLE_SIZE.
func (w *blockWriter) setTableSize(n uint32) {
	w.enc.SetMaxDynamicTableSizeLimit(min(n, tableSize))
	clear(w.known) // the next block begins with a size update
}

// encode returns the block of a template and, if extra has a name, of one more field. It is
// valid until the next call.
func (w *blockWriter) encode(t *Template, extra hpack.HeaderField) []byte {
	if extra.Name == "" {
		if block, ok := w.known[t]; ok {
			return block
		}
	}
	w.buf.Reset()
	for _, f := range t.fields {
		_ = w.enc.WriteField(f) // a bytes.Buffer takes everything
	}
	if extra.Name != "" {
		_ = w.enc.WriteField(extra)
	}
	block := w.buf.Bytes()
	switch changed, err := changesTable(block); {
	case changed || err != nil:
		clear(w.known)
	case extra.Name == "":
		w.known[t] = bytes.Clone(block)
	}
	return block
}

// blockReader decodes the header blocks of one connection.
type blockReader struct {
	dec   *hpack.Decoder
	known map[string]*Block // by octets, while the table stays as it is
}

func newBlockReader() *blockReader {
	return &blockReader{dec: hpack.NewDecoder(tableSize, nil), known: map[string]*Block{}}
}

func (r *blockReader) decode(block []byte) (*Block, error) {
	if b, ok := r.known[string(block)]; ok {
		return b, nil
	}
	changed, err := changesTable(block)
	if err != nil {
		return nil, err
	}
	list, err := r.dec.DecodeFull(block)
	if err != nil {
		return nil, err
	}
	b := &Block{fields: make(map[string]string, len(list))}
	for _, f := range list {
		if _, ok := b.fields[f.Name]; ok {
			return nil, fmt.Errorf("header field %s comes twice", f.Name)
		}
		b.fields[f.Name] = f.Value
	}
	if changed || len(r.known) >= rememberedBlocks {
		clear(r.known)
	}
	if !changed {
		r.known[string(block)] = b
	}
	return b, nil
}

// changesTable tells whether a header block inserts into the dynamic table or
// resizes it (RFC 7541 section 6). A block that does neither means the same until
// one does.
func changesTable(block []byte) (bool, error) {
	for len(block) > 0 {
		var nameBits int
		switch b := block[0]; {
		case b&0x80 != 0: // indexed field
			rest, _, err := integer(block, 7)
			if err != nil {
				return false, err
			}
			block = rest
			continue
		case b&0x40 != 0, b&0x20 != 0: // literal with indexing, size update
			return true, nil
		default: // literal without indexing, or never indexed
			nameBits = 4
		}
		rest, index, err := integer(block, nameBits)
		if err == nil && index == 0 {
			rest, err = skipString(rest)
		}
		if err == nil {
			rest, err = skipString(rest)
		}
		if err != nil {
			return false, err
		}
		block = rest
	}
	return false, nil
}

// integer reads an integer with a prefix of that many bits (RFC 7541 section 5.1).
func integer(p []byte, bits int) (rest []byte, n int, err error) {
	if len(p) == 0 {
		return nil, 0, errShortBlock
	}
	limit := 1<<bits - 1
	n, p = int(p[0])&limit, p[1:]
	if n < limit {
		return p, n, nil
	}
	for shift := 0; shift <= 28 && len(p) > 0; shift += 7 {
		b := p[0]
		n, p = n+int(b&0x7f)<<shift, p[1:]
		if b&0x80 == 0 {
			return p, n, nil
		}
	}
	return nil, 0, errShortBlock
}

// skipString passes over a string literal (RFC 7541 section 5.2).
func skipString(p []byte) ([]byte, error) {
	rest, n, err := integer(p, 7)
	if err != nil {
		return nil, err
	}
	if n > len(rest) {
		return nil, errShortBlock
	}
	return rest[n:], nil
}

var errShortBlock = fmt.Errorf("header block ends within a field")
