package wiring

import (
	"time"

	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
)

const (
	// memoryStep is the time between an order's status changes in a warehouse in memory.
	memoryStep = 5 * time.Second
	// memoryOpening is each shop's opening stock of each goods there, to try things out with.
	memoryOpening = 1000
)

// memoryAdapter has one warehouse for each account. It keeps its data whatever the set-up's version, and is known to
// this process only.
func memoryAdapter() adapter {
	type key struct{ seller, account string }
	kept := map[key]*memory.Warehouse{}
	return adapter{
		open: func(o opening) (warehouse.Identified, error) {
			at := key{o.seller.Name(), o.account.Name}
			if kept[at] == nil {
				kept[at] = &memory.Warehouse{StepEvery: memoryStep, Opening: memoryOpening, As: memory.Kind{}.Identity(o.account)}
			}
			numbers := map[string]string{}
			for _, shop := range o.seller.Setup.Shops {
				numbers[shop.Code] = shop.ShopNo
			}
			kept[at].UseShops(numbers)
			return kept[at].Site(o.code), nil
		},
	}
}
