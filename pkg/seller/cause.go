package seller

import (
	"strings"

	sellerv1 "stockbridge/proto/seller/v1"
)

// What an order may wait for. A cause names the thing to fix, so that fixing it releases exactly what waited for it.
// The list, with what to do about each, is in docs/events.md.
const (
	causeSeller        = "seller"
	causeShop          = "shop"
	causeWarehouse     = "warehouse"
	causeShopWarehouse = "shop-warehouse"
	causeCarrier       = "carrier"
	causeSupplier      = "supplier"
	causeCategory      = "category"
	causePermission    = "permission"
	causeToken         = "token"
	causeAccount       = "account"
	causeNumber        = "number"
	causePause         = "pause"
	causeTrial         = "trial"
	causeHold          = "hold"
	causeReceiver      = "receiver"
	causeCancel        = "cancel"
	causeOperator      = "operator"
	causeShadow        = "shadow"
	causeBooking       = "booking"
	causeFlow          = "flow"
	causeIdentity      = "identity"
	causeTwin          = "twin"
	causeFormer        = "former"
	causeUnresolved    = "unresolved"
)

// CauseKinds are the kinds of causes: the part before the colon.
func CauseKinds() []string {
	return []string{
		causeSeller, causeShop, causeWarehouse, causeShopWarehouse, causeCarrier, causeSupplier, causeCategory, causePermission, causeToken,
		causeAccount, causeNumber, causePause, causeTrial, causeHold, causeReceiver, causeCancel, causeOperator, causeShadow,
		causeBooking, causeFlow, causeIdentity, causeTwin, causeFormer, causeUnresolved,
	}
}

func cause(kind, seller string, rest ...string) string {
	return kind + ":" + strings.Join(append([]string{seller}, rest...), "/")
}

// OnlyWarehouseKnows reports whether only the warehouse knows that the cause is gone: a permission, an account, a number.
func OnlyWarehouseKnows(cause string) bool {
	kind, _, _ := strings.Cut(cause, ":")
	return kind == causePermission || kind == causeAccount || kind == causeNumber
}

// AboutNumber reports whether it is a CauseNumber.
func AboutNumber(cause string) bool { return strings.HasPrefix(cause, causeNumber+":") }

// CauseUnknown waits for a set-up of that name.
func CauseUnknown(seller string) string { return cause(causeSeller, seller) }

// CauseShop waits for the shop to be in the set-up.
func CauseShop(seller, shop string) string { return cause(causeShop, seller, shop) }

// CauseWarehouse waits for the set-up to have the warehouse, with all that it needs.
func CauseWarehouse(seller, warehouse string) string { return cause(causeWarehouse, seller, warehouse) }

// CauseShopWarehouse waits for the shop's permission to use the warehouse.
func CauseShopWarehouse(seller, shop, warehouse string) string {
	return cause(causeShopWarehouse, seller, shop, warehouse)
}

// CauseBooking waits until the shop is no longer booked from the flow: its orders are the warehouse's own.
func CauseBooking(seller, shop string) string { return cause(causeBooking, seller, shop) }

// CauseFlow waits for the set-up to name a flow that has every movement.
func CauseFlow(seller string) string { return cause(causeFlow, seller) }

// CauseCarrier waits for the warehouse's number of the ERP's carrier.
func CauseCarrier(seller, carrier string) string { return cause(causeCarrier, seller, carrier) }

// CauseSupplier waits for the warehouse's number of the ERP's supplier.
func CauseSupplier(seller, supplier string) string { return cause(causeSupplier, seller, supplier) }

// CauseCategory waits for the warehouse's number of the ERP's category.
func CauseCategory(seller, category string) string { return cause(causeCategory, seller, category) }

// CausePermission waits for the warehouse to grant what is needed; an operator says when it did.
func CausePermission(seller, what string) string { return cause(causePermission, seller, what) }

// CauseToken waits until the warehouse accepts the account's credential again.
func CauseToken(seller, account string) string { return cause(causeToken, seller, account) }

// CauseAccount waits until the account's calls reach the warehouse's gateway and are understood there: its URL, or
// the gateway itself, is wrong.
func CauseAccount(seller, account string) string { return cause(causeAccount, seller, account) }

// What a CauseNumber is about.
const (
	NumberShop       = "shop"
	NumberWarehouse  = "warehouse"
	NumberCarrier    = "carrier"
	NumberSupplier   = "supplier"
	NumberDepartment = "department"
)

// CauseNumber waits until the warehouse knows, and has enabled, the number that the set-up gives for one of the ERP's
// codes (for a department: for an account).
func CauseNumber(seller, what, code string) string { return cause(causeNumber, seller, what, code) }

// CausePause waits for the seller to be resumed.
func CausePause(seller string) string { return cause(causePause, seller) }

// CauseTrial waits for the end of the seller's trial: the order is not among those that are sent.
func CauseTrial(seller string) string { return cause(causeTrial, seller) }

// CauseHold waits for an operator: the ERP, or the order's shop, asked for the hold.
func CauseHold(seller, outboundNo string) string { return cause(causeHold, seller, outboundNo) }

// CauseReceiver waits for a receiver in plain text.
func CauseReceiver(seller, outboundNo string) string { return cause(causeReceiver, seller, outboundNo) }

// CauseCancel waits for the end of the order that this one supersedes.
func CauseCancel(seller, superseded string) string { return cause(causeCancel, seller, superseded) }

// CauseOperator waits for a person to decide, after every attempt failed.
func CauseOperator(seller, outboundNo string) string { return cause(causeOperator, seller, outboundNo) }

// CauseShadow waits for a person to confirm that the ERP's own program did not send the order and no longer will.
func CauseShadow(seller, outboundNo string) string { return cause(causeShadow, seller, outboundNo) }

// CauseIdentity waits for the set-up to name the account again under which the order was sent, or for a person to
// confirm that nothing of it exists there.
func CauseIdentity(seller, outboundNo string) string { return cause(causeIdentity, seller, outboundNo) }

// CauseFormer waits for a person to confirm that the order was not sent under a former account of the seller: the ledger
// was lost, and with it the record of where the order may be.
func CauseFormer(seller, outboundNo string) string { return cause(causeFormer, seller, outboundNo) }

// CauseUnresolved waits for a person to find out at the warehouse whether the document is there: it may have been sent, and
// the warehouse finds none by the ERP's numbers.
func CauseUnresolved(seller, no string) string { return cause(causeUnresolved, seller, no) }

// CauseTwin waits until the account belongs to this seller only.
func CauseTwin(seller, account string) string { return cause(causeTwin, seller, account) }

// Cleared reports whether s no longer has the cause, so that what waited for it can continue. It is false for causes
// of other sellers, and for those that no set-up can clear: an operator's hold, a receiver, a cancel, a permission,
// an account, a number.
func (s *Seller) Cleared(cause string) bool {
	kind, rest, _ := strings.Cut(cause, ":")
	name, code, _ := strings.Cut(rest, "/")
	if name != s.Name() {
		return false
	}
	var cleared bool
	switch kind {
	case causeSeller:
		cleared = true
	case causeShop:
		_, cleared = s.Shop(code)
	case causeBooking:
		shop, known := s.Shop(code)
		cleared = known && shop.GetBooking() != sellerv1.Shop_BOOKING_FLOW
	case causeFlow:
		cleared = s.Following().Flow != sellerv1.Stock_FLOW_SEARCH
	case causeWarehouse:
		_, cleared = s.Warehouse(code)
	case causeShopWarehouse:
		// Both codes are the ERP's and may contain slashes. Where two splits make sense, continuing too early only
		// means being held again.
		for i := range len(code) {
			cleared = cleared || code[i] == '/' && s.MayUse(code[:i], code[i+1:])
		}
	case causeCarrier:
		_, cleared = s.Carrier(code)
	case causeSupplier:
		_, cleared = s.Supplier(code)
	case causeCategory:
		_, cleared = s.Category(code)
	case causeToken:
		// The probe that ends the pause finds out whether the credential is good.
		_, known := s.Account(code)
		cleared = known && s.Pause == nil
	case causePause:
		cleared = s.Pause == nil
	case causeTwin:
		account, known := s.Account(code)
		cleared = !known || s.Twins[Identity(account)] == ""
	case causeTrial:
		cleared = s.Setup.Trial == nil
	}
	return cleared
}
