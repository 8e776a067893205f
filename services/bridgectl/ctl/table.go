package ctl

import (
	"io"
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// minText is the least width of the last column beside the others; with less, its text moves to lines of its own.
const minText = 24

// table is rows of cells in aligned columns. The last column is text: it is wrapped when a width is known, and printed
// unbroken, one line a row, when a program reads the output.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write prints the table in at most columns cells of a terminal; 0 means that there is no terminal.
func (t *table) write(w io.Writer, columns int) error {
	last := len(t.head) - 1
	widths := make([]int, last)
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i := range last {
			widths[i] = max(widths[i], cellsOf(clean(row[i])))
		}
	}
	indent := 0
	for _, n := range widths {
		indent += n + 2
	}
	var b strings.Builder
	for n, row := range append([][]string{t.head}, t.rows...) {
		for i := range last {
			cell := clean(row[i])
			b.WriteString(cell + strings.Repeat(" ", widths[i]-cellsOf(cell)+2))
		}
		text := clean(row[last])
		switch {
		case columns == 0:
			b.WriteString(text)
		case columns-indent >= minText:
			b.WriteString(strings.Join(wrap(text, columns-indent), "\n"+strings.Repeat(" ", indent)))
		case n > 0 && text != "":
			cells := strings.TrimRight(b.String(), " ")
			b.Reset()
			b.WriteString(cells + "\n    " + strings.Join(wrap(text, columns-4), "\n    "))
		}
		if _, err := io.WriteString(w, strings.TrimRight(b.String(), " ")+"\n"); err != nil {
			return err
		}
		b.Reset()
	}
	return nil
}

// pairs is a list of names and values, for one thing shown in full.
type pairs struct{ table }

func (p *pairs) add(name, value string) {
	if value != "" {
		p.table.add(name, value)
	}
}

func (p *pairs) write(w io.Writer, columns int) error {
	if len(p.rows) == 0 {
		return nil
	}
	p.head, p.rows = p.rows[0], p.rows[1:]
	return p.table.write(w, columns)
}

// clean makes foreign text harmless: what a terminal would interpret (escape sequences, line breaks, changes of writing
// direction) is shown instead.
func clean(s string) string {
	if !strings.ContainsFunc(s, harmful) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			b.WriteByte(' ')
		case harmful(r):
			b.WriteRune('�')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func harmful(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// cellsOf is how many terminal cells s takes.
func cellsOf(s string) int {
	n := 0
	for _, r := range s {
		n += cells(r)
	}
	return n
}

func cells(r rune) int {
	if unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	default:
		return 1
	}
}

// wrap breaks s into lines of at most limit cells: at spaces, beside wide characters, and inside a word only when the
// word alone is too long.
func wrap(s string, limit int) []string {
	limit = max(limit, 2)
	var lines []string
	line, used := "", 0
	for _, word := range words(s) {
		n := cellsOf(word)
		if used+cellsOf(strings.TrimRight(word, " ")) > limit && used > 0 {
			lines = append(lines, strings.TrimRight(line, " "))
			line, used = "", 0
		}
		if n <= limit || used+cellsOf(strings.TrimRight(word, " ")) <= limit {
			line, used = line+word, used+n
			continue
		}
		for _, r := range word {
			if used+cells(r) > limit {
				lines = append(lines, line)
				line, used = "", 0
			}
			line, used = line+string(r), used+cells(r)
		}
	}
	return append(lines, strings.TrimRight(line, " "))
}

// words splits s where a line may break: after spaces and around wide characters. Closing marks stay with what they
// close.
func words(s string) []string {
	var out []string
	start, prev := 0, rune(0)
	for i, r := range s {
		breakable := prev == ' ' && r != ' ' || (cells(r) == 2 || cells(prev) == 2) && !closing(r) && !opening(prev)
		if i > start && breakable {
			out = append(out, s[start:i])
			start = i
		}
		prev = r
	}
	return append(out, s[start:])
}

func closing(r rune) bool {
	return r == ' ' || strings.ContainsRune("，。；：、！？）》」』”’,.;:!?)]}", r)
}

func opening(r rune) bool { return strings.ContainsRune("（《「『“‘([{", r) }
