package ctl

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
)

// maxDocument is the most that one order may take in a file, in bytes: more than a stream accepts, so that a document
// that is too large is refused with its number, not by the reader.
const maxDocument = 2 << 20

// document is one JSON text of a file.
type document struct {
	// line is where it starts, from 1.
	line int
	text []byte
}

// documents reads JSON texts: one a line, or each over several lines with its { in the first column. A broken text does
// not prevent reading those after it.
func documents(r io.Reader) iter.Seq2[document, error] {
	return func(yield func(document, error) bool) {
		s := bufio.NewScanner(r)
		s.Buffer(make([]byte, 64<<10), maxDocument)
		var open document
		flush := func() bool {
			d := open
			open = document{}
			if d.text == nil {
				return true
			}
			return yield(d, nil)
		}
		for line := 1; s.Scan(); line++ {
			text := s.Bytes()
			if line == 1 {
				text = bytes.TrimPrefix(text, []byte("\ufeff"))
			}
			blank := len(bytes.TrimSpace(text)) == 0
			if blank && open.text == nil {
				continue
			}
			if len(text) > 0 && text[0] == '{' && open.text != nil && !flush() {
				return
			}
			if open.text == nil {
				open = document{line: line}
			} else {
				open.text = append(open.text, '\n')
			}
			open.text = append(open.text, text...)
			if len(open.text) > maxDocument {
				yield(document{}, tooLong(open.line))
				return
			}
			end := bytes.TrimRight(text, " \t\r")
			if len(end) > 0 && end[len(end)-1] == '}' && json.Valid(open.text) && !flush() {
				return
			}
		}
		if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
			yield(document{}, tooLong(open.line+1))
			return
		} else if err != nil {
			yield(document{}, err)
			return
		}
		flush()
	}
}

func tooLong(line int) error {
	return fmt.Errorf("line %d: longer than %d bytes; nothing after it was read", line, maxDocument)
}

// open opens a file of documents; - is standard input.
func (a *app) open(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(a.In), nil
	}
	return os.Open(path)
}
