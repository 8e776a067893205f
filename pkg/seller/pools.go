package seller

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"stockbridge/pkg/fault"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Whole is one hundred per cent in the unit of Pool.Ratio and PoolShop.Part: hundredths of a per cent.
const Whole = 100_00

// Pool is stock of a warehouse that some shops share, with its percentages as integers.
type Pool struct {
	Name, Warehouse string
	// Ratio is the pool's part of the warehouse's sellable stock, in hundredths of a per cent; RatioText as it was
	// set.
	Ratio     int64
	RatioText string
	Shops     []PoolShop
}

// PoolShop is a shop's part of a pool.
type PoolShop struct {
	Code string
	// Part of the pool, in hundredths of a per cent. The parts of a pool's shops add up to Whole at most.
	Part int64
	// Safety pieces are never offered, and a share below Minimum is published as 0.
	Safety, Minimum int64
}

// Pools are the pools of a warehouse, in the order of the set-up.
func (s *Seller) Pools(warehouse string) []Pool {
	var pools []Pool
	for _, p := range s.Setup.GetStock().GetPools() {
		if p.GetWarehouse() == warehouse {
			pools = append(pools, poolOf(p))
		}
	}
	return pools
}

// poolOf reads a validated pool.
func poolOf(p *sellerv1.Pool) Pool {
	ratio, _ := parsePercent(p.GetRatio())
	pool := Pool{Name: p.GetName(), Warehouse: p.GetWarehouse(), Ratio: ratio, RatioText: p.GetRatio()}
	left, without := int64(Whole), int64(0)
	for _, s := range p.GetShops() {
		if part, ok := parsePercent(s.GetPart()); ok {
			left -= part
		} else {
			without++
		}
	}
	for _, s := range p.GetShops() {
		part, ok := parsePercent(s.GetPart())
		if !ok {
			part = max(left, 0) / without // rounded down: together they must not get more than there is
		}
		pool.Shops = append(pool.Shops, PoolShop{Code: s.GetShop(), Part: part, Safety: s.GetSafety(), Minimum: s.GetMinimum()})
	}
	return pool
}

// FormatPercent formats hundredths of a per cent as decimal text.
func FormatPercent(hundredths int64) string {
	text := fmt.Sprintf("%d.%02d", hundredths/100, hundredths%100)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// parsePercent reads decimal text of at most two decimals as hundredths; false when it is none.
func parsePercent(text string) (int64, bool) {
	whole, decimals, _ := strings.Cut(text, ".")
	if len(decimals) > 2 {
		return 0, false
	}
	n, err := strconv.ParseUint(whole+decimals+strings.Repeat("0", 2-len(decimals)), 10, 32)
	return int64(n), err == nil && whole != ""
}

// StockSince is where the set-up wants the flow to be read from; zero when it does not say.
func (s *Seller) StockSince() time.Time {
	since, err := time.Parse(time.RFC3339, s.Setup.GetStock().GetSince())
	if err != nil {
		return time.Time{}
	}
	return since
}

// stockFaults checks the stock section: one way of booking each of the warehouse's shops, and consistent pools.
func stockFaults(setup *sellerv1.Setup, add func(code, field, zh, en string, args ...any)) {
	first := map[string]int{}
	for i, s := range setup.Shops {
		j, seen := first[s.GetShopNo()]
		if !seen {
			first[s.GetShopNo()] = i
			continue
		}
		if other := setup.Shops[j]; other.GetBooking() != s.GetBooking() {
			add("setup.booking", fmt.Sprintf("shops[%d].booking", i),
				"店铺 %[1]s 与 %[2]s 共用仓库方店铺编号 %[3]s，必须采用同一种记账方式：京仓按流水 (flow)，云仓按单据 (documents)；两种并用会重复记账",
				"shops %[1]s and %[2]s share %[3]s at the warehouse and must be booked one way, flow or documents: with both, everything is booked twice",
				other.GetCode(), s.GetCode(), s.GetShopNo())
		}
	}
	stock := setup.GetStock()
	if stock == nil {
		return
	}
	if stock.Since != "" {
		if _, err := time.Parse(time.RFC3339, stock.Since); err != nil {
			add("setup.value", "stock.since", "应为带时区的时间，如 2026-01-02T03:04:05+08:00", "want a time with its zone, like 2026-01-02T03:04:05+08:00")
		}
	}
	poolFaults(setup, add)
}

type shopWarehouse struct{ shop, warehouse string }

func poolFaults(setup *sellerv1.Setup, add func(code, field, zh, en string, args ...any)) {
	warehouses, shops := map[string]bool{}, map[string]*sellerv1.Shop{}
	for _, w := range setup.Warehouses {
		warehouses[w.GetCode()] = true
	}
	for _, s := range setup.Shops {
		shops[s.GetCode()] = s
	}
	names, pooled := map[string]bool{}, map[shopWarehouse]string{}
	for i, p := range setup.Stock.Pools {
		at := fmt.Sprintf("stock.pools[%d]", i)
		if names[p.GetName()] {
			add("setup.duplicate", at+".name", "%s 重复出现，请删除一个", "%s is listed twice: delete one", p.GetName())
		}
		names[p.GetName()] = true
		if p.GetWarehouse() != "" && !warehouses[p.Warehouse] {
			add("setup.reference", at+".warehouse", "warehouses 中没有 %s", "%s is not in warehouses", p.Warehouse)
		}
		if ratio, ok := parsePercent(p.GetRatio()); ok && ratio > Whole {
			add("setup.value", at+".ratio", "最多 100（%%）", "100 (per cent) at most")
		}
		sum := int64(0)
		for j, s := range p.GetShops() {
			field := fmt.Sprintf("%s.shops[%d]", at, j)
			part, _ := parsePercent(s.GetPart())
			sum += part
			shop := shops[s.GetShop()]
			if s.GetShop() == "" {
				continue // reported by the contract's own rule
			}
			if shop == nil {
				add("setup.reference", field+".shop", "shops 中没有 %s", "%s is not in shops", s.GetShop())
				continue
			}
			if shop.GetBooking() == sellerv1.Shop_BOOKING_FLOW {
				add("setup.booking", field+".shop", "店铺 %s 是京仓店铺 (booking: flow)：其库存由仓库方自行同步，不能放入共享池",
					"shop %s is booked from the flow: the warehouse synchronises its stock itself, so it cannot be in a pool", s.Shop)
			}
			if warehouses[p.GetWarehouse()] && !uses(shop, p.Warehouse) {
				add("setup.reference", field+".shop", "店铺 %[1]s 不允许使用仓库 %[2]s，请在该店铺的 warehouses 中添加", "shop %[1]s may not use warehouse %[2]s: add it to the shop's warehouses", s.Shop, p.Warehouse)
			}
			key := shopWarehouse{s.Shop, p.GetWarehouse()}
			if other, taken := pooled[key]; taken {
				add("setup.duplicate", field+".shop", "店铺 %[1]s 在仓库 %[2]s 已属于共享池 %[3]s，只能属于一个", "shop %[1]s is in pool %[3]s of warehouse %[2]s already: it can be in one only", s.Shop, p.GetWarehouse(), other)
			}
			pooled[key] = p.GetName()
		}
		if sum > Whole {
			add("setup.value", at+".shops", "各店铺占比合计 %[1]s%%，超过 100%%", "the shops' parts are %[1]s per cent together, more than 100", FormatPercent(sum))
		}
	}
}

func uses(s *sellerv1.Shop, warehouse string) bool {
	for _, w := range s.GetWarehouses() {
		if w == warehouse {
			return true
		}
	}
	return false
}

// Warnings are set-ups that Validate accepts although they are probably not meant.
func Warnings(setup *sellerv1.Setup) []fault.Reason {
	var found []fault.Reason
	add := func(code, field, zh, en string, args ...any) {
		found = append(found, fault.Reason{Code: code, Field: field, ZH: fmt.Sprintf(zh, args...), EN: fmt.Sprintf(en, args...)})
	}
	sums := map[string]int64{}
	for i, p := range setup.GetStock().GetPools() {
		pool := poolOf(p)
		before := sums[pool.Warehouse]
		sums[pool.Warehouse] += pool.Ratio
		if before <= Whole && sums[pool.Warehouse] > Whole {
			add("setup.ratios", fmt.Sprintf("stock.pools[%d].ratio", i),
				"仓库 %[1]s 各共享池的比例合计超过 100%%，会超卖；请与仓库方系统中的库存比例核对",
				"the pools of warehouse %[1]s take more than 100 per cent of its stock together and will oversell: compare with the ratios that are set at the warehouse", pool.Warehouse)
		}
		for j, s := range pool.Shops {
			if s.Part == 0 {
				add("setup.ratios", fmt.Sprintf("stock.pools[%d].shops[%d].part", i, j),
					"店铺 %s 的占比为 0：不会分到库存", "shop %s has a part of 0: it is given no stock", s.Code)
			}
		}
	}
	return found
}
