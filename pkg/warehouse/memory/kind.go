package memory

import (
	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Kind is the accounts of warehouses in memory. They need no settings, and nobody else sends to them.
type Kind struct{}

var _ warehouse.Kind = Kind{}

// Validate accepts every account.
func (Kind) Validate(*sellerv1.Account) []fault.Reason { return nil }

// ValidateWarehouse accepts every warehouse.
func (Kind) ValidateWarehouse(*sellerv1.Warehouse) []fault.Reason { return nil }

// ValidateStock accepts everything.
func (Kind) ValidateStock(*sellerv1.Account, *sellerv1.Stock) []fault.Reason { return nil }

// Identity is the account's name: the warehouse belongs to this process.
func (Kind) Identity(a *sellerv1.Account) warehouse.Identity {
	return warehouse.Identity("memory/" + a.GetName())
}

// Capabilities are none.
func (Kind) Capabilities(*sellerv1.Account) warehouse.Capabilities { return warehouse.Capabilities{} }
