package validation

import (
	"regexp/syntax"
	"slices"
	"unicode/utf8"
)

// form is a regular expression that is matched from its beginning to its end without going back: each part takes all that
// it can. So a text that it matches is one that the expression matches; of the others a few may be.
type form []part

// part is a character out of a class, or what stands in parentheses, least to most times; most < 0 is without limit.
type part struct {
	ascii       [2]uint64 // the class' characters below 128
	others      []rune    // pairs of the first and the last of a range
	group       form      // instead of a class
	least, most int
}

// formOf reads an expression that begins with ^, ends with $, and has between them only literals, classes and groups, each
// with a count.
func formOf(pattern string) (form, bool) {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil || re.Op != syntax.OpConcat || len(re.Sub) < 2 {
		return nil, false
	}
	first, last := re.Sub[0], re.Sub[len(re.Sub)-1]
	if first.Op != syntax.OpBeginText || last.Op != syntax.OpEndText {
		return nil, false
	}
	return formOfParts(re.Sub[1 : len(re.Sub)-1])
}

func formOfParts(list []*syntax.Regexp) (f form, ok bool) {
	for _, re := range list {
		least, most, of := 1, 1, re
		switch re.Op {
		case syntax.OpRepeat:
			least, most, of = re.Min, re.Max, re.Sub[0]
		case syntax.OpPlus:
			least, most, of = 1, -1, re.Sub[0]
		case syntax.OpStar:
			least, most, of = 0, -1, re.Sub[0]
		case syntax.OpQuest:
			least, most, of = 0, 1, re.Sub[0]
		}
		p := part{least: least, most: most}
		switch of.Op {
		case syntax.OpLiteral:
			if of.Flags&syntax.FoldCase != 0 || len(of.Rune) > 1 && re != of {
				return nil, false
			}
			for _, r := range of.Rune {
				p := p
				p.class([]rune{r, r})
				f = append(f, p)
			}
			continue
		case syntax.OpCharClass:
			p.class(of.Rune)
		case syntax.OpCapture:
			inner := of.Sub[:1]
			if inner[0].Op == syntax.OpConcat {
				inner = inner[0].Sub
			}
			if p.group, ok = formOfParts(inner); !ok || p.most < 0 { // without a limit, one that takes nothing would go on for ever
				return nil, false
			}
		default:
			return nil, false
		}
		f = append(f, p)
	}
	return f, true
}

func (p *part) class(ranges []rune) {
	for low, high := range pairs(ranges) {
		for r := low; r <= high && r < utf8.RuneSelf; r++ {
			p.ascii[r/64] |= 1 << (r % 64)
		}
		if high >= utf8.RuneSelf {
			p.others = append(p.others, max(low, utf8.RuneSelf), high)
		}
	}
}

func pairs(ranges []rune) func(yield func(low, high rune) bool) {
	return func(yield func(low, high rune) bool) {
		for pair := range slices.Chunk(ranges, 2) {
			if !yield(pair[0], pair[1]) {
				return
			}
		}
	}
}

func (p *part) has(r rune) bool {
	if r < utf8.RuneSelf {
		return p.ascii[r/64]&(1<<(r%64)) != 0
	}
	for low, high := range pairs(p.others) {
		if low <= r && r <= high {
			return true
		}
	}
	return false
}

func (f form) matches(text string) bool {
	rest, ok := f.take(text)
	return ok && rest == ""
}

// take matches the beginning of text and returns what is left of it.
func (f form) take(text string) (rest string, ok bool) {
	for i := range f {
		p := &f[i]
		n := 0
		for ; p.most < 0 || n < p.most; n++ {
			if p.group != nil {
				after, ok := p.group.take(text)
				if !ok {
					break
				}
				text = after
				continue
			}
			if text == "" {
				break
			}
			r, size := rune(text[0]), 1
			if r >= utf8.RuneSelf {
				r, size = utf8.DecodeRuneInString(text)
			}
			if !p.has(r) {
				break
			}
			text = text[size:]
		}
		if n < p.least {
			return text, false
		}
	}
	return text, true
}
