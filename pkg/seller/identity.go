package seller

import (
	"cmp"
	"fmt"
	"slices"

	"stockbridge/pkg/warehouse/kinds"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Identity names the owner of an account's documents as the warehouse knows it: two accounts with one identity see
// each other's documents.
func Identity(a *sellerv1.Account) string { return string(kinds.Of(a).Identity(a)) }

// IdentityOf is the identity of the account of a warehouse, by the ERP's code; "" when the set-up lacks either.
func (s *Seller) IdentityOf(warehouse string) string {
	w, _ := s.Warehouse(warehouse)
	a, _ := s.Account(w.GetAccount())
	return Identity(a)
}

// exclusiveIdentities are the identities of a set-up that no other seller may have: those of warehouses outside of
// this process.
func exclusiveIdentities(setup *sellerv1.Setup) []string {
	var ids []string
	for _, a := range setup.GetAccounts() {
		if kinds.Of(a).Capabilities(a).Exclusive {
			if id := Identity(a); !slices.Contains(ids, id) { // a seller may have several accounts of one identity
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// indexIdentities records that a seller's set-up changed, and updates Twins of every seller concerned. The caller
// holds r.mu.
//
// # Why
//
// Put refuses a second seller with the same identity, but a store may hold a pair from before it did, or two that
// were applied at the same moment. The later seller's orders are then held: a document found under its number may be
// the other's, and would be reported as accepted although the warehouse does not have it. Holding is safe, visible at
// once, and ends automatically. The earlier seller continues: it was there when nobody shared.
func (r *Registry) indexIdentities(name string, was, now *Seller) {
	var ids []string
	if was != nil {
		ids = exclusiveIdentities(was.Setup)
	}
	for _, id := range ids {
		if r.byIdentity[id] = slices.DeleteFunc(r.byIdentity[id], func(n string) bool { return n == name }); len(r.byIdentity[id]) == 0 {
			delete(r.byIdentity, id)
		}
	}
	if now != nil {
		for _, id := range exclusiveIdentities(now.Setup) {
			ids = append(ids, id)
			r.byIdentity[id] = append(r.byIdentity[id], name)
		}
	}
	for _, id := range ids {
		for _, n := range r.byIdentity[id] {
			s := *r.sellers[n]
			s.Twins = nil
			for _, own := range exclusiveIdentities(s.Setup) {
				if first := r.firstOf(own); first != n {
					if s.Twins == nil {
						s.Twins = map[string]string{}
					}
					s.Twins[own] = first
				}
			}
			r.sellers[n] = &s
		}
	}
}

// firstOf is the seller whose set-up took the identity first, as far as versions show.
func (r *Registry) firstOf(id string) string {
	return slices.MinFunc(r.byIdentity[id], func(x, y string) int {
		return cmp.Or(cmp.Compare(r.sellers[x].Version, r.sellers[y].Version), cmp.Compare(x, y))
	})
}

// Loses describes what a document of the seller loses when now replaces was, empty when nothing: its warehouse or
// shop is removed, or its look-ups would use another account than the one it was sent under (identity; "" when not
// known).
func Loses(was, now *Seller, shop, warehouse, identity string) (zh, en string) {
	before, after := was.IdentityOf(warehouse), now.IdentityOf(warehouse)
	_, had := was.Warehouse(warehouse)
	_, has := now.Warehouse(warehouse)
	switch {
	case had && !has:
		return "仓库 " + warehouse + " 被删除", "warehouse " + warehouse + " is taken out"
	case before != after && cmp.Or(identity, before) != after:
		return fmt.Sprintf("仓库 %s 的账号改变 (%s → %s)", warehouse, before, after), fmt.Sprintf("the account of warehouse %s changes (%s → %s)", warehouse, before, after)
	}
	_, had = was.Shop(shop)
	if _, has = now.Shop(shop); had && !has {
		return "店铺 " + shop + " 被删除", "shop " + shop + " is taken out"
	}
	return "", ""
}

// MayLose reports whether Loses finds something for any document at all.
func MayLose(was, now *Seller) bool {
	return slices.ContainsFunc(was.Setup.Warehouses, func(w *sellerv1.Warehouse) bool {
		_, stays := now.Warehouse(w.Code)
		return !stays || was.IdentityOf(w.Code) != now.IdentityOf(w.Code)
	}) || slices.ContainsFunc(was.Setup.Shops, func(s *sellerv1.Shop) bool { _, stays := now.Shop(s.Code); return !stays })
}
