// Package orders makes sales orders that look like a merchant's day; the same seed makes the same orders.
package orders

import (
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "stockbridge/proto/order/v1"
)

// Maker makes orders of one seller. Names, streets and numbers are invented.
type Maker struct {
	Seller, Shop, Warehouse string
	// Goods are the ERP's codes with the warehouse's numbers.
	Goods []Goods
	// Now is the audit's time.
	Now func() time.Time

	rand *rand.Rand
	made int
	tag  string
}

// Goods is something that is sold.
type Goods struct{ Code, WarehouseNo, Name, Price string }

// New makes a Maker for a seller with one shop S01, one warehouse W01 and a few goods. Numbers begin with the seed, so
// that those of two seeds differ.
func New(seller string, seed uint64) *Maker {
	return &Maker{
		Seller: seller, Shop: "S01", Warehouse: "W01",
		Goods: []Goods{
			{"TEA-250", "EMG4418000000001", "龙井茶 250g", "128.00"},
			{"CUP-W", "EMG4418000000002", "白瓷杯", "39.90"},
			{"POT-1L", "EMG4418000000003", "紫砂壶 1L", "480.00"},
			{"TRAY-B", "EMG4418000000004", "竹茶盘", "99.00"},
		},
		Now: time.Now, rand: rand.New(rand.NewPCG(seed, 7)), tag: fmt.Sprintf("%04d", seed%10000),
	}
}

var (
	surnames  = []string{"王", "李", "张", "刘", "陈", "杨", "赵", "黄", "周", "吴"}
	givens    = []string{"伟", "芳", "娜", "秀英", "敏", "静", "丽", "强", "磊", "洋"}
	places    = [][3]string{{"北京", "朝阳区", "望京街道"}, {"上海", "浦东新区", "张江镇"}, {"广东", "深圳市", "南山区"}, {"浙江", "杭州市", "余杭区"}, {"四川", "成都市", "武侯区"}}
	streets   = []string{"长安路", "解放街", "人民大道", "科技园路", "滨河巷"}
	platforms = []string{"taobao", "tmall", "douyin", "other"}
)

// Next makes one more order. It is valid; change it afterwards to make it special.
func (m *Maker) Next() *orderv1.Audited {
	m.made++
	r := m.rand
	no := fmt.Sprintf("%s-%06d", m.tag, m.made)
	place := places[r.IntN(len(places))]
	now := m.Now()
	o := &orderv1.Audited{
		Seller: m.Seller, Shop: m.Shop, Warehouse: m.Warehouse,
		OrderNo: "SO" + no, OutboundNo: "OUT" + no + "-1", Revision: 1, AuditedAt: timestamppb.New(now),
		Platform: platforms[r.IntN(len(platforms))], PlatformOrderNos: []string{fmt.Sprintf("P%s%04d", no, r.IntN(10000))},
		OrderedAt: timestamppb.New(now.Add(-time.Duration(1+r.IntN(600)) * time.Minute)),
		Receiver: &orderv1.Receiver{
			Name:   surnames[r.IntN(len(surnames))] + givens[r.IntN(len(givens))],
			Mobile: fmt.Sprintf("13%09d", r.IntN(1_000_000_000)), Province: place[0], City: place[1], County: place[2],
			Address: fmt.Sprintf("%s%d号%d室", streets[r.IntN(len(streets))], 1+r.IntN(300), 101+r.IntN(900)),
		},
	}
	for i := range 1 + r.IntN(3) {
		g := m.Goods[(r.IntN(len(m.Goods))+i)%len(m.Goods)]
		o.Lines = append(o.Lines, &orderv1.Line{
			LineId: fmt.Sprint(i + 1), GoodsCode: g.Code, WarehouseGoodsNo: g.WarehouseNo, Name: g.Name,
			Quantity: int64(1 + r.IntN(4)), Price: g.Price,
		})
	}
	return o
}

// Make makes n of them.
func (m *Maker) Make(n int) []*orderv1.Audited {
	list := make([]*orderv1.Audited, n)
	for i := range list {
		list[i] = m.Next()
	}
	return list
}
