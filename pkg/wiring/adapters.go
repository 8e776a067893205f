package wiring

import (
	"context"

	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/callmetrics"
	sellerv1 "stockbridge/proto/seller/v1"
)

// adapters makes one row for each kind of account. Each Warehouses has its own.
func adapters() map[sellerv1.Account_Kind]adapter {
	return map[sellerv1.Account_Kind]adapter{
		sellerv1.Account_KIND_JD:     jdAdapter(),
		sellerv1.Account_KIND_MEMORY: memoryAdapter(),
	}
}

// adapter is how one kind of account is put together. What its settings need and what it can do says its
// warehouse.Kind. Only open is required.
type adapter struct {
	// open opens a warehouse. Calls are one at a time.
	open func(o opening) (warehouse.Identified, error)
	// authority returns the authorisation server of an account, where Capabilities.Consent is set.
	authority func(a *sellerv1.Account, trust seller.Trust) token.Authority
	// close ends what the adapter keeps open. Calls have ended by then.
	close func()
}

// opening is what an adapter may use to open a warehouse.
type opening struct {
	seller  *seller.Seller
	account *sellerv1.Account
	// code is the ERP's code of the warehouse.
	code string
	// class is the quota class of its calls.
	class quota.Class
	// readOnly: calls that may change something there are refused before they are sent.
	readOnly bool
	// limiter is nil for an account without a quota.
	limiter interface {
		Acquire(ctx context.Context, class quota.Class) (release func(), err error)
	}
	// tokens are those that are ours to refresh; nil if this process has none.
	tokens token.Source
	// trust limits which files and variables may hold secrets. The account has passed it.
	trust seller.Trust
	// metrics count calls; nil counts none.
	metrics *callmetrics.Metrics
}
