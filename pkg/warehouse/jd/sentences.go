package jd

import "regexp"

// dataFaults are JD's sentences that are known to name a fault of the order's data: what they name is looked up before a
// document is made, so nothing was taken. A refusal in any other words is looked for a while before it is believed.
//
// JD publishes none of its sentences. These are the sandbox's, whose master data and stock refuse like this. One is added
// when it was seen of JD itself and no document ever followed it: with a sentence too many here, an order that ships is
// published as failed.
var dataFaults = regexp.MustCompile(`^商品\[[^\[\]]*\](没有库存信息|库存不足)$|^(事业部|店铺|仓库|承运商)\[[^\[\]]*\](不存在|已停用|不存在或未启用)$`)

// faultOfData tells whether JD's words are known to name a fault of the data.
func faultOfData(text string) bool { return dataFaults.MatchString(text) }
