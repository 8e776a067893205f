package clean

import (
	"strings"
	"unicode/utf8"
)

// suffixes are the endings of area names, longer ones before their own endings.
var suffixes = []string{
	"维吾尔自治区", "壮族自治区", "回族自治区", "特别行政区", "街道办事处", "自治区", "自治州", "自治县", "街道", "地区", "省", "市", "区", "县", "旗", "盟", "州", "镇", "乡",
}

// What follows a name inside another word: 市场, 市民, 市政府 of a city; 开发区大道 of any.
const (
	splitsCity = "场民政委府立区中井里集口"
	splitsAny  = "路街巷弄道"
)

// ends reports whether a name ends in one of suffixes.
func ends(name string) bool {
	for _, s := range suffixes {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return false
}

// short is a name without the suffix; "" for one that has none, or of which too little remains.
func short(name string) string {
	for _, s := range suffixes {
		if stem, ok := strings.CutSuffix(name, s); ok {
			if utf8.RuneCountInString(stem) < 2 {
				return ""
			}
			return stem
		}
	}
	return ""
}

// once is the street without the area at its head, which is sent before it anyway. area is ordered from the province
// down.
//
// Only what cannot be anything else is removed: names from the province down, in their order, of which all but the
// last may lack their suffix (北京朝阳区), ending with the last one of the area or naming at least two. So 朝阳路 keeps its
// 朝阳, and a street that says nothing else is left as it is.
func once(street string, area [4]string) string {
	begins := false // like one of the names, which hardly any street does
	for _, name := range area {
		_, size := utf8.DecodeRuneInString(name)
		begins = begins || name != "" && strings.HasPrefix(street, name[:size])
	}
	if !begins {
		return street
	}
	for {
		end := head(street, area)
		if end == 0 {
			return street
		}
		street = street[skip(street, end):]
	}
}

// head is where the area at the head of the street ends, 0 for none.
func head(street string, area [4]string) int {
	best := 0
	var try func(at, level, names int)
	try = func(at, level, names int) {
		for ; level < len(area); level++ {
			name := area[level]
			if name == "" {
				continue
			}
			for _, form := range [2]string{name, short(name)} {
				if form == "" || !strings.HasPrefix(street[at:], form) {
					continue
				}
				end := at + len(form)
				if form != name {
					try(skip(street, end), level+1, names+1) // something has to follow
					continue
				}
				if end > best && (names > 0 && ends(name) || short(name) != "" && lowest(area, level)) && stands(street, end) {
					best = end
				}
				try(skip(street, end), level+1, names+1)
			}
			// The province of 北京市朝阳区 may be given as 北京.
			if !ends(name) {
				for _, s := range []string{"省", "市", "自治区"} {
					if level < 2 && strings.HasPrefix(street[at:], name+s) {
						try(skip(street, at+len(name+s)), level+1, names+1)
					}
				}
			}
		}
	}
	try(0, 0, 0)
	return best
}

// lowest reports whether nothing below the level is given, and it is a county's or a town's.
func lowest(area [4]string, level int) bool {
	return level >= 2 && strings.Join(area[level+1:], "") == ""
}

// stands reports whether a name that ends there is a word of its own, and something follows.
func stands(street string, end int) bool {
	rest := street[skip(street, end):]
	if rest == "" {
		return false
	}
	next, _ := utf8.DecodeRuneInString(street[end:])
	switch {
	case strings.ContainsRune(splitsAny, next), strings.HasPrefix(street[end:], "大道"), strings.HasPrefix(street[end:], "大街"):
		return false
	case strings.HasSuffix(street[:end], "市"):
		return !strings.ContainsRune(splitsCity, next)
	}
	return true
}

// skip is the position behind what may stand between two names.
func skip(street string, at int) int {
	return len(street) - len(strings.TrimLeft(street[at:], " ,，"))
}
