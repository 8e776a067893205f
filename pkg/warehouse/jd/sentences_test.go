package jd

import "testing"

// Only sentences that are known whole are believed at once: whatever else JD says may come of an order that it has.
func TestOnlyKnownSentencesAreFaultsOfTheData(t *testing.T) {
	for text, want := range map[string]bool{
		"商品[EMG4418000000001]库存不足":   true,
		"商品[EMG4418000000001]没有库存信息": true,
		"商品[***]库存不足":                true, // masked
		"店铺[ESP0000000000001]不存在":    true,
		"仓库[110000001]已停用":           true,
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
