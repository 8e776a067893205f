package jd

import (
	"errors"
	"testing"

	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	"stockbridge/pkg/warehouse/warehousetest"
)

// Only texts that are known as a whole are believed at once: after any other the order may exist.
func TestOnlyKnownSentencesAreFaultsOfTheData(t *testing.T) {
	for text, want := range map[string]bool{
		"商品[EMG4418000000001]库存不足":   true,
		"商品[EMG4418000000001]没有库存信息": true,
		"商品[***]库存不足":                true, // masked
		"店铺[ESP0000000000001]不存在":    false,
		"仓库[110000001]已停用":           false,
		"系统处理中":                      false,
		"业务处理失败":                     false,
		"单号[SO-1]已存在，请勿重复下单":         false,
		"出库单[ESL1]不存在":               false,
		"商品[EMG1]库存不足，订单处理中":         false,
		"查询店铺[ESP1]不存在":              false,
		"":                           false,
	} {
		if got := faultOfData(text); got != want {
			t.Errorf("%q: %t, want %t", text, got, want)
		}
	}
}

// Each known text reaches the table: no earlier rule of writeError decides about it.
func TestEachKnownSentenceReachesItsTable(t *testing.T) {
	w := answering(t, func(*request) string { return "" })
	for _, text := range []string{"商品[EMG4418000000001]库存不足", "商品[EMG4418000000001]没有库存信息"} {
		err := w.writeError(w.aboutOrder(warehousetest.Order("A-1")), &jdapi.Error{Code: "10500", Text: text, Class: jdapi.ClassBusiness})
		var rejected *warehouse.Rejected
		if !errors.As(err, &rejected) || !rejected.Data || rejected.Cause != "" {
			t.Errorf("%q: %#v, want a fault of the data", text, err)
		}
	}
}
