package jd

import "regexp"

// dataFaults matches the texts that are known to name a fault in the order's data. JD checks these before it creates a
// document, so none was created. After any other refusal the order is looked up for a while before the refusal is
// believed.
//
// JD publishes none of its texts. These are the sandbox's, whose stock refuses with them. Add a text only if JD itself
// was seen to use it and no document ever followed: with a wrong one here, an order that ships is published as failed.
// What a text says about a shop, warehouse, carrier, supplier or department is read before, by numberAtFault.
var dataFaults = regexp.MustCompile(`^商品\[[^\[\]]*\](没有库存信息|库存不足)$`)

// faultOfData reports whether the text is known to name a fault in the order's data.
func faultOfData(text string) bool { return dataFaults.MatchString(text) }
