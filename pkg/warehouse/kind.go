package warehouse

import (
	"stockbridge/pkg/fault"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Kind is what an adapter says about the accounts of its warehouses from their settings alone: it makes no call and reads
// no secret. Its values may be used by many goroutines.
type Kind interface {
	// Validate returns what is missing or wrong in an account, with paths below the account as fields ("app_key"). What
	// holds for all kinds was checked before.
	Validate(a *sellerv1.Account) []fault.Reason
	// ValidateWarehouse does the same for a warehouse of such an account.
	ValidateWarehouse(w *sellerv1.Warehouse) []fault.Reason
	// ValidateStock does the same for how stock is followed, with paths below "stock".
	ValidateStock(a *sellerv1.Account, stock *sellerv1.Stock) []fault.Reason
	// Identity is the one that the warehouses of the account have.
	Identity(a *sellerv1.Account) Identity
	// Capabilities returns what the account can do and what it is bound to.
	Capabilities(a *sellerv1.Account) Capabilities
}

// Capabilities is what an account can do and what it is bound to. The zero value can do nothing beyond the contract and is
// bound to nothing.
type Capabilities struct {
	// Exclusive: only one seller may have the account's identity, because each would find the other's documents.
	Exclusive bool
	// Quota is what its calls count against.
	Quota Quota
	// Consent: a merchant can consent to it, and we can refresh its token.
	Consent bool
	// Shared: other programs send to it as well, so shadow mode has something to compare with.
	Shared bool
}

// Quota is what the calls of an account count against, and how many of them are safe.
type Quota struct {
	// Key names what the remote counts calls by. Accounts with the same key share one quota, also those of other sellers. ""
	// counts nothing.
	Key string
	// Application is the Key in metrics: accounts with the same Key have the same one. Nothing secret.
	Application string
	// PerSecond and Concurrent are the limits of an account whose settings have none.
	PerSecond  float64
	Concurrent int
}
