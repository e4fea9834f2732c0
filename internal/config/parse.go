// SPDX-FileCopyrightText: The Manifold Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Source is what a file's meaning depends on beside its text. The zero value has no
// environment and looks at no files.
type Source struct {
	// Name is the file's name in errors. Relative paths in the file are relative to its directory.
	Name string
	// Env looks up a variable of the environment. nil: none is set.
	Env func(name string) (value string, ok bool)
	// Exists returns what is wrong with a file that the configuration names. nil: nothing.
	Exists func(path string) error
}

// Load reads and checks a file, with the environment and the files of the process. Its error is
// an Errors if the file could be read.
func Load(name string) (*Config, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}

	return Source{Name: name, Env: os.LookupEnv, Exists: readable}.Parse(text)
}

// readable opens a file, as only that tells whether it can be read.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}

	return f.Close()
}

// Parse parses and checks the text of a file. Its error is an Errors.
func (s Source) Parse(text []byte) (*Config, error) {
	p, errs := s.parse(text)
	if len(errs) > 0 {
		return nil, errs
	}

	return &p.config, nil
}

// parsed is a configuration with the positions of what it was made of.
type parsed struct {
	config Config
	at     positions
}

// parse returns all that is wrong. Checks of the meaning run as far as what is wrong
// with the form leaves something to check.
func (s Source) parse(text []byte) (*parsed, Errors) {
	root, err := load(text)
	if err != nil {
		return nil, Errors{s.syntax(err)}
	}

	d := &decoder{source: s, at: positions{}, broken: map[string]bool{}}
	p := &parsed{at: d.at}
	d.root(root, &p.config)
	c := &checker{parsed: p, broken: d.broken}
	c.check()
	errs := append(d.errs, c.errs...)
	for i := range errs {
		errs[i].File = s.Name
	}

	return p, errs.sorted()
}

// load returns the one document, or nil where there is none.
func load(text []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var doc, further yaml.Node
	switch err := loader.Load(&doc); {
	case errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0:
		return nil, nil
	case err != nil:
		return nil, err
	}
	switch err := loader.Load(&further); {
	case errors.Is(err, io.EOF):
		return doc.Content[0], nil
	case err != nil:
		return nil, err
	default:
		return nil, Error{Line: further.Line, Col: further.Column, Message: "a second document, expected one in a file"}
	}
}

// syntax returns what the YAML parser found wrong.
func (s Source) syntax(err error) Error {
	if e, ok := errors.AsType[Error](err); ok {
		e.File = s.Name
		return e
	}
	e := Error{File: s.Name, Message: fmt.Sprintf("%v; expected YAML", err)}
	if syntax, ok := errors.AsType[*yaml.LoadError](err); ok {
		e.Line, e.Col = syntax.Mark.Line, syntax.Mark.Column
		e.Message = strings.TrimPrefix(syntax.Message, "yaml: ") + "; expected YAML"
	}

	return e
}

// file returns the path of a file that the configuration names.
func (s Source) file(path string) File {
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(s.Name), path)
	}

	return File(path)
}

// exists is Exists, which may be nil.
func (s Source) exists(path string) error {
	if s.Exists == nil {
		return nil
	}

	return s.Exists(path)
}
