package jdapi

import (
	"encoding/json"
	"strings"

	"stockbridge/pkg/personal"
)

// dataOf returns the personal data in a business request, which JD sometimes quotes in its answers. It is read from the
// text that was sent, so it is what JD can quote. A request without personal data yields its numbers, which may be shown.
func dataOf(param string) personal.Data {
	var request map[string]any
	if json.Unmarshal([]byte(param), &request) != nil {
		return personal.Data{}
	}
	var d personal.Data
	for name, value := range request {
		text, ok := value.(string)
		if !ok || text == "" {
			continue
		}
		switch name {
		case "consigneeName":
			d.Names = append(d.Names, text)
		case "consigneeMobile", "consigneePhone":
			d.Phones = append(d.Phones, text)
		case "consigneeAddress", "consigneeEmail", "consigneePostcode":
			d.Addresses = append(d.Addresses, text)
		case "consigneeRemark", "sellerNote", "inboundRemark", "invoiceTitle", "invoiceContent", "invoiceTax":
			d.Remarks = append(d.Remarks, text)
		default:
			d.Known = append(d.Known, strings.Split(text, ",")...)
		}
	}
	return d
}
