package personal_test

import (
	"testing"

	"stockbridge/pkg/personal"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

func TestWhatAMessageMarksIsHidden(t *testing.T) {
	o := &orderv1.Audited{
		OutboundNo: "SO-20261130001", PlatformOrderNos: []string{"2754381920561"}, BuyerRemark: "打电话给王大锤再送",
		Lines: []*orderv1.Line{{GoodsCode: "4418000000001", Name: "龙井茶"}}, Invoice: &orderv1.Invoice{Title: "某某贸易商行"},
		Receiver: &orderv1.Receiver{Name: "张三", Mobile: "13800000000", Province: "浙江省", Address: "浙江省文三路 90 号"},
	}
	got := personal.Of(o).Hide("SO-20261130001/2754381920561: 张三 13800000000 浙江省文三路90号 商品4418000000001龙井茶 王大锤再送 某某贸易商行")
	if want := "SO-20261130001/2754381920561: *** *** 浙江省*** 商品4418000000001龙井茶 *** ***"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	// A sentence is not a number, whatever it contains, and neither is a number that contains a telephone's.
	f := &documentv1.Failed{Ref: &documentv1.Ref{OutboundNo: "A1"}, Reason: &documentv1.Reason{RemoteText: "13800000000", Code: "x"}}
	if got := personal.Of(f).Hide("A1: 13800000000"); got != "A1: ***" {
		t.Error(got)
	}
	o.OrderNo = "13800000000"
	if got := personal.Of(o).Hide("order 13800000000"); got != "order ***" {
		t.Error(got)
	}
	if got := personal.Of(nil).Hide("a"); got != "a" {
		t.Error(got)
	}
}
