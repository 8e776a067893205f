package personal_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"stockbridge/pkg/personal"
)

func TestDigitsAndMailAreHidden(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "",
		"库存不足":                           "库存不足",
		"手机号13800000000不合法":              "手机号***不合法",
		"手机号 138 0000 0000 不合法":          "手机号 *** 不合法",
		"mobile +86-138-0000-0000 wrong": "mobile +*** wrong",
		"电话（0755）8888 8888":              "电话（***",
		"电话：１３８００００００００":                      "电话：***",
		"1\u200b3\u200b800000000":             "***",
		"写信到 zhang.san@example.com 也可以":       "写信到 *** 也可以",
		"写信到 zhang＠example．com":               "写信到 ***",
		"8888 8888 或 138\u00a00000\u20110000": "*** 或 ***",
		// These are not personal.
		"code 10500, line 3, 6 digits 123456":                                "code 10500, line 3, 6 digits 123456",
		"in JD's time it is 2026-11-30 10:00:00":                             "in JD's time it is 2026-11-30 10:00:00",
		"since 2026-11-30T10:00:00.123456789+08:00":                          "since 2026-11-30T10:00:00.123456789+08:00",
		"read tcp 127.0.0.1:43520->127.0.0.1:8080: connection reset by peer": "read tcp 127.0.0.1:43520->127.0.0.1:8080: connection reset by peer",
		"lines 1,2,3,4,5,6,7,8":                                              "lines 1,2,3,4,5,6,7,8",
	} {
		if got := personal.Hide(text); got != want {
			t.Errorf("%q\n got %q\nwant %q", text, got, want)
		}
	}
}

func TestAPersonsDataIsHiddenHoweverItIsQuoted(t *testing.T) {
	d := personal.Data{
		Names: []string{"张三", "欧阳小娜"}, Phones: []string{"13800001234"},
		Addresses: []string{"北京 北京市 朝阳区 示例路 1 号 2 单元 301", "zhang.san@example.com"},
		Remarks:   []string{"放在门口快递柜，打电话给李四"},
		Known:     []string{"SO-20261130-001", "2754381920561", "EMG4418000000001", "北京市", "朝阳区", "1"},
	}
	for text, want := range map[string]string{
		"收件人张三有误":                      "收件人***有误",
		"收件人 张 三 有误":                   "收件人 *** 有误",
		"尾号1234":                       "尾号***",
		"地址示例路1号2单元301无法解析":            "地址***无法解析",
		"地址：示例路１号":                     "地址：***",
		"「例路 1 号 2 单」太短":               "「***」太短",
		"朝阳区不配送，北京市也不":                 "朝阳区不配送，北京市也不",
		"小区：朝阳区示例路":                    "小区：朝阳区***",
		"备注[打电话给李四]过长":                 "备注[***]过长",
		"欧阳小娜女士":                       "***女士",
		"阳小娜":                          "***",
		"ZHANG.SAN":                    "***",
		"订单 SO-20261130-001 已存在":       "订单 SO-20261130-001 已存在",
		"平台单号2754381920561重复":          "平台单号2754381920561重复",
		"平台单号27543819205617重复":         "平台单号***重复",
		"商品EMG4418000000001不存在":        "商品EMG4418000000001不存在",
		"张三 13800001234 2754381920561": "*** *** 2754381920561",
		"参数不合法":                        "参数不合法",
	} {
		if got := d.Hide(text); got != want {
			t.Errorf("%q\n got %q\nwant %q", text, got, want)
		}
	}
	latin := personal.Data{Names: []string{"Li", "John Smith"}}
	if got := latin.Hide("application of Li refused: john  SMITH"); got != "application of *** refused: ***" {
		t.Errorf("latin names: %q", got)
	}
}

func TestAnErrorKeepsItsMeaning(t *testing.T) {
	base := errors.New("malformed HTTP response \"13800000000\"")
	err := personal.Data{}.Error(fmt.Errorf("answer lost: %w", base))
	if !errors.Is(err, base) || strings.Contains(fmt.Sprintf("%v %+v", err, fmt.Errorf("jd: %w", err)), "138") {
		t.Errorf("%v", err)
	}
	if (personal.Data{}).Error(nil) != nil {
		t.Error("no error became one")
	}
}

func FuzzHide(f *testing.F) {
	f.Add("收件人张三 13800000000", "张三", "示例路1号")
	f.Add("\xff\u202e＋８６", "\xff", "")
	f.Fuzz(func(t *testing.T, text, name, address string) {
		got := personal.Data{Names: []string{name}, Addresses: []string{address}, Phones: []string{address}, Known: []string{name}}.Hide(text)
		if again := personal.Hide(got); len(text) < 1000 && strings.Count(again, personal.Mask) < strings.Count(got, personal.Mask) {
			t.Errorf("%q shows more of %q", again, got)
		}
	})
}
