package seller

import "strings"

// What an order may wait for. A cause names the thing to mend, so that mending it releases exactly what waited for it.
// The list, with what to do about each, stands in docs/events.md.
const (
	causeSeller        = "seller"
	causeShop          = "shop"
	causeWarehouse     = "warehouse"
	causeShopWarehouse = "shop-warehouse"
	causeCarrier       = "carrier"
	causeCategory      = "category"
	causePermission    = "permission"
	causeToken         = "token"
	causePause         = "pause"
	causeTrial         = "trial"
	causeHold          = "hold"
	causeReceiver      = "receiver"
	causeCancel        = "cancel"
)

func cause(kind, seller string, rest ...string) string {
	return kind + ":" + strings.Join(append([]string{seller}, rest...), "/")
}

// CauseUnknown: no set-up of this name was applied.
func CauseUnknown(seller string) string { return cause(causeSeller, seller) }

// CauseShop: the shop is not in the set-up.
func CauseShop(seller, shop string) string { return cause(causeShop, seller, shop) }

// CauseWarehouse: the warehouse is not in the set-up, or its own set-up cannot be used.
func CauseWarehouse(seller, warehouse string) string { return cause(causeWarehouse, seller, warehouse) }

// CauseShopWarehouse: the shop may not use the warehouse.
func CauseShopWarehouse(seller, shop, warehouse string) string {
	return cause(causeShopWarehouse, seller, shop, warehouse)
}

// CauseCarrier: the ERP's carrier has no number at the far side.
func CauseCarrier(seller, carrier string) string { return cause(causeCarrier, seller, carrier) }

// CauseCategory: the ERP's category has no number at the far side.
func CauseCategory(seller, category string) string { return cause(causeCategory, seller, category) }

// CausePermission: the far side does not grant what is needed.
func CausePermission(seller, what string) string { return cause(causePermission, seller, what) }

// CauseToken: the far side no longer takes the account's credential.
func CauseToken(seller, account string) string { return cause(causeToken, seller, account) }

// CausePause: the seller is paused.
func CausePause(seller string) string { return cause(causePause, seller) }

// CauseTrial: the seller is on trial and the order is not one of those that go.
func CauseTrial(seller string) string { return cause(causeTrial, seller) }

// CauseHold: the ERP, or the order's shop, asks that it wait for an operator.
func CauseHold(seller, outboundNo string) string { return cause(causeHold, seller, outboundNo) }

// CauseReceiver: the receiver is masked or ciphered.
func CauseReceiver(seller, outboundNo string) string { return cause(causeReceiver, seller, outboundNo) }

// CauseCancel: the order that this one supersedes still lives.
func CauseCancel(seller, superseded string) string { return cause(causeCancel, seller, superseded) }

// Cleared tells whether cause is one that s no longer has, so that what waited for it can go on. It is false for
// causes of other sellers, and for those that no set-up can mend: an operator's hold, a receiver, a cancel, a
// permission.
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
	case causeWarehouse:
		_, cleared = s.Warehouse(code)
	case causeShopWarehouse:
		// Both codes are the ERP's and may have slashes of their own. Where two splits make sense, going on too early
		// only means being held again.
		for i := range len(code) {
			cleared = cleared || code[i] == '/' && s.MayUse(code[:i], code[i+1:])
		}
	case causeCarrier:
		_, cleared = s.Carrier(code)
	case causeCategory:
		_, cleared = s.Category(code)
	case causeToken:
		// Whether the credential is good is found out by the probe that ends the pause.
		_, known := s.Account(code)
		cleared = known && s.Pause == nil
	case causePause:
		cleared = s.Pause == nil
	case causeTrial:
		cleared = s.Setup.Trial == nil
	}
	return cleared
}
