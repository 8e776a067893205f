package jd

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"stockbridge/pkg/clean"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	documentv1 "stockbridge/proto/document/v1"
)

// maxListed is how many characters an element of a list may have.
const maxListed = 50

// draft is a document of any kind that is being written in JD's fields, with what was changed and what is wrong.
type draft struct{ warehouse.Plan }

func newDraft(cleaned clean.Changes) draft {
	var d draft
	d.Cleaned = cleaned.Changed
	for _, wrong := range cleaned.Wrong {
		d.Findings = append(d.Findings, fault.Permanent(wrong))
	}
	return d
}

// finish writes the request and chooses the finding that prevents sending.
func (d *draft) finish(method string, request any) {
	var err error
	d.Call = method
	if d.Body, err = jdapi.ParamJSON(request); err != nil || len(d.Body) > jdapi.MaxRequest {
		d.refuse("order.large", "", fmt.Sprintf("单据内容超过 %d 字节", jdapi.MaxRequest), fmt.Sprintf("the document has more than %d bytes", jdapi.MaxRequest))
	}
	for _, finding := range d.Findings {
		if d.Err == nil || fault.Of(d.Err) == fault.Held && fault.Of(finding) == fault.Refused {
			d.Err = finding
		}
	}
}

// line is a line of a document of any kind.
type line interface {
	GetLineId() string
	GetGoodsCode() string
	GetWarehouseGoodsNo() string
	GetQuantity() int64
}

// lineLists are the comma lists that all kinds of documents have.
type lineLists struct{ goodsNo, isvGoodsNo, orderLine, quantity string }

// listsOf writes the lists and refuses lines that JD cannot take.
func listsOf[L line](d *draft, of []L) (lists lineLists) {
	if len(of) == 0 {
		d.refuse("lines.required", "lines", "没有商品行", "there are no lines")
	}
	var haveNo, haveCode int
	lists.goodsNo, haveNo = column(d, of, "warehouse_goods_no", L.GetWarehouseGoodsNo)
	lists.isvGoodsNo, haveCode = column(d, of, "goods_code", L.GetGoodsCode)
	if haveNo < len(of) && haveCode < len(of) {
		name, value := "goods_code", L.GetGoodsCode
		if haveNo > haveCode {
			name, value = "warehouse_goods_no", L.GetWarehouseGoodsNo
		}
		d.refuse("goods.mixed", firstWithout(of, name, value),
			"同一单据的所有商品行必须统一使用商品编码，或统一使用京东商品编号", "JD wants the ERP's code of all lines of a document, or its own number of all of them")
	}
	lists.orderLine, _ = column(d, of, "line_id", L.GetLineId)

	quantities, seen := make([]string, len(of)), map[string]bool{}
	for i, l := range of {
		if quantities[i] = strconv.FormatInt(l.GetQuantity(), 10); l.GetQuantity() <= 0 {
			d.refuse("quantity.invalid", lineField(i, "quantity"), "数量必须是大于 0 的整数", "must be a whole number above 0")
		}
		if id := l.GetLineId(); id != "" && seen[id] {
			d.refuse("line.repeated", lineField(i, "line_id"), "行号重复，每个商品行的行号必须唯一", "another line has the same id; each line needs its own")
		}
		seen[l.GetLineId()] = true
	}
	lists.quantity = strings.Join(quantities, ",")
	return lists
}

// column writes the comma list of one field. A list needs an element for each line: it is "" unless all lines have a
// value. have is how many have one.
func column[L line](d *draft, of []L, name string, value func(L) string) (list string, have int) {
	values := make([]string, len(of))
	for i, l := range of {
		if values[i] = value(l); values[i] != "" {
			have++
		}
		if utf8.RuneCountInString(values[i]) > maxListed {
			d.limit(lineField(i, name), values[i], maxListed)
		}
		if strings.ContainsAny(values[i], ",\r\n") {
			d.refuse("text.comma", lineField(i, name), "不能包含逗号或换行", "must not contain commas or line breaks")
		}
	}
	if have < len(of) {
		return "", have
	}
	return strings.Join(values, ","), have
}

// firstWithout is the path of the field in the first line that has no value.
func firstWithout[L line](of []L, name string, value func(L) string) string {
	for i, l := range of {
		if value(l) == "" {
			return lineField(i, name)
		}
	}
	return ""
}

// lineField is the path of a line's field.
func lineField(i int, name string) string { return "lines[" + strconv.Itoa(i) + "]." + name }

// limit refuses a text that is too long and cannot be cut.
func (d *draft) limit(field, text string, most int) {
	if n := utf8.RuneCountInString(text); n > most {
		d.refuse("text.long", field, fmt.Sprintf("有 %d 个字符，京东最多接受 %d 个", n, most), fmt.Sprintf("has %d characters; JD takes at most %d", n, most))
	}
}

func (d *draft) refuse(code, field, zh, en string) {
	d.Findings = append(d.Findings, fault.Permanent(fault.Reason{Code: code, Field: field, ZH: zh, EN: en}))
}

func (d *draft) hold(cause, code, field, zh, en string) {
	d.Findings = append(d.Findings, fault.Hold(cause, fault.Reason{Code: code, Field: field, ZH: zh, EN: en}))
}

// cut shortens a remark and reports it.
func (d *draft) cut(field, text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	runes := []rune(text)
	d.Cleaned = append(d.Cleaned, &documentv1.Cleaned{Field: field, What: "cut",
		Zh: fmt.Sprintf("超过 %d 个字符，已截断", most), En: fmt.Sprintf("cut to the %d characters that JD takes", most)})
	return string(runes[:most])
}
