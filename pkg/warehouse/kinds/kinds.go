// Package kinds lists what each adapter says about the accounts of its warehouses. Code that checks or reads
// settings asks here and knows no adapter. A new adapter is one more case.
//
// # Why
//
// pkg/seller checks settings by what adapters say of them, and adapters open warehouses for sellers: so this list stands
// between the contract and the sellers, apart from pkg/wiring, which opens warehouses. Handing the kinds to each of the
// callers that read or check a set-up, or registering them in a variable, would hide the same dependency.
package kinds

import (
	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdaccount"
	"stockbridge/pkg/warehouse/memory"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Of returns the kind of an account. One that no adapter knows has no identity and can do nothing.
func Of(a *sellerv1.Account) warehouse.Kind {
	switch a.GetKind() {
	case sellerv1.Account_KIND_JD:
		return jdaccount.Kind{}
	case sellerv1.Account_KIND_MEMORY:
		return memory.Kind{}
	default:
		return none{}
	}
}

// none is the kind of an account that no adapter knows. That the kind is missing is a fault of the setting itself.
type none struct{}

func (none) Validate(*sellerv1.Account) []fault.Reason            { return nil }
func (none) ValidateWarehouse(*sellerv1.Warehouse) []fault.Reason { return nil }
func (none) ValidateStock(*sellerv1.Account, *sellerv1.Stock) []fault.Reason {
	return nil
}
func (none) Identity(*sellerv1.Account) warehouse.Identity { return "" }

// Capabilities rule nothing out about who else sends to it.
func (none) Capabilities(*sellerv1.Account) warehouse.Capabilities {
	return warehouse.Capabilities{Shared: true}
}
