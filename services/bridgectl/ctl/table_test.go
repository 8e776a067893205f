package ctl

import (
	"strings"
	"testing"
)

func TestTableAlignsWideText(t *testing.T) {
	tab := table{head: []string{"SHOP", "NAME", "REASON"}}
	tab.add("S01", "京东旗舰店", "店铺 S01 不允许使用仓库 W01，请在该店铺的 warehouses 中添加")
	tab.add("S2", "tea", "shop S2 is not in the set-up: add it to shops")

	for name, c := range map[string]struct {
		columns int
		want    string
	}{
		"no terminal: a row is a line": {0, `
SHOP  NAME        REASON
S01   京东旗舰店  店铺 S01 不允许使用仓库 W01，请在该店铺的 warehouses 中添加
S2    tea         shop S2 is not in the set-up: add it to shops
`},
		"a terminal: the last column is wrapped": {50, `
SHOP  NAME        REASON
S01   京东旗舰店  店铺 S01 不允许使用仓库 W01，请
                  在该店铺的 warehouses 中添加
S2    tea         shop S2 is not in the set-up:
                  add it to shops
`},
		"a narrow one: it gets lines of its own": {40, `
SHOP  NAME
S01   京东旗舰店
    店铺 S01 不允许使用仓库 W01，请在该
    店铺的 warehouses 中添加
S2    tea
    shop S2 is not in the set-up: add it
    to shops
`},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := tab.write(&b, c.columns); err != nil {
				t.Fatal(err)
			}
			if got := "\n" + b.String(); got != c.want {
				t.Errorf("got:%s\nwant:%s", got, c.want)
			}
			for line := range strings.Lines(b.String()) {
				if n := cellsOf(strings.TrimSuffix(line, "\n")); c.columns > 0 && n > c.columns {
					t.Errorf("%d cells in %q", n, line)
				}
			}
		})
	}
}

func TestCleanShowsWhatATerminalWouldObey(t *testing.T) {
	for in, want := range map[string]string{
		"plain":             "plain",
		"张三":                "张三",
		"a\nb\tc":           "a b c",
		"\x1b[2Jgone":       "�[2Jgone",
		"abc\u202edef":      "abc�def",
		"two\u2028lines":    "two�lines",
		"bell\a and\u009bm": "bell� and�m",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzWrap(f *testing.F) {
	f.Add("店铺 S01 不允许使用仓库 W01，请在该店铺的 warehouses 中添加", 20)
	f.Add("a-very-long-word-without-any-break and more", 7)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = 2 + abs(limit)%100
		s = clean(strings.ToValidUTF8(s, "?"))
		lines := wrap(s, limit)
		for _, line := range lines {
			if cellsOf(line) > limit {
				t.Errorf("%d cells in %q, limit %d", cellsOf(line), line, limit)
			}
		}
		squeeze := func(s string) string { return strings.ReplaceAll(s, " ", "") }
		if squeeze(strings.Join(lines, "")) != squeeze(s) {
			t.Errorf("wrap(%q) = %q lost text", s, lines)
		}
	})
}

func abs(n int) int {
	if n < 0 {
		return max(-n, 0)
	}
	return n
}
