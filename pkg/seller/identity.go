package seller

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"

	"stockbridge/pkg/fault"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Identity names whom the far side knows an account's documents under: two accounts of one identity see each other's. Of
// the application's key only a digest is in it, because it is told in events, which go to whoever runs the ERP. Where the
// far side is reached (url) is no part of it: it is another way to the same documents.
func Identity(a *sellerv1.Account) string {
	switch a.GetKind() {
	case sellerv1.Account_KIND_JD:
		key := sha256.Sum256([]byte(a.AppKey))
		return fmt.Sprintf("jd/%s/%s/app-%x", a.Department, a.VendorSource, key[:4])
	case sellerv1.Account_KIND_MEMORY:
		return "memory/" + a.Name
	default:
		return ""
	}
}

// IdentityOf is that of the account of a warehouse, by the ERP's code; "" when the set-up lacks either.
func (s *Seller) IdentityOf(warehouse string) string {
	w, _ := s.Warehouse(warehouse)
	a, _ := s.Account(w.GetAccount())
	return Identity(a)
}

// shareable are the identities of a set-up that no other seller may have: those of far sides outside of this process.
func shareable(setup *sellerv1.Setup) []string {
	var ids []string
	for _, a := range setup.GetAccounts() {
		if a.GetKind() == sellerv1.Account_KIND_JD && a.AppKey != "" && a.Department != "" && a.VendorSource != "" {
			if id := Identity(a); !slices.Contains(ids, id) { // a seller may have several accounts of one
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// shared finds the accounts of a set-up that would take the identity of another seller's. Of a pair that stands already,
// from before this was refused, the later seller may be changed otherwise; the earlier one would become the later one.
func (b *Registry) shared(setup *sellerv1.Setup) Faults {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var had []string
	if was := b.sellers[setup.Name]; was != nil {
		had = shareable(was.Setup)
	}
	var faults Faults
	for i, a := range setup.Accounts {
		id := Identity(a)
		if slices.Contains(had, id) && b.first(id) != setup.Name || !slices.Contains(shareable(setup), id) {
			continue
		}
		for _, other := range b.sharing[id] {
			if other == setup.Name {
				continue
			}
			faults = append(faults, fault.Reason{
				Code: "setup.twin", Field: fmt.Sprintf("accounts[%d]", i),
				ZH: fmt.Sprintf("商家 %s 与 %s 不能使用同一应用、事业部和 ERP 编号 (app_key, department, vendor_source)：按单号查询时会把对方的单据当作自己的；请合并为一个商家，或改用各自的编号", setup.Name, other),
				EN: fmt.Sprintf("sellers %s and %s cannot have application, department and vendor source in common: asked for by number, each would find the other's documents; make one seller of both, or give each its own", setup.Name, other),
			})
		}
	}
	return faults
}

// share notes that a seller's set-up changed, and tells of every seller concerned who had its identities before. The
// caller holds b.mu.
//
// # Why
//
// Apply refuses a second seller of one identity, but a store may hold a pair from before it did, or two that were applied
// at the same moment. The later one's orders are then held: what it would find under its number may be the other's, and
// each of them told as accepted although nobody has it. To hold is safe, seen at once, and ends by itself. The earlier one
// goes on: it was there when nobody shared.
func (b *Registry) share(name string, was, now *Seller) {
	var ids []string
	if was != nil {
		ids = shareable(was.Setup)
	}
	for _, id := range ids {
		if b.sharing[id] = slices.DeleteFunc(b.sharing[id], func(n string) bool { return n == name }); len(b.sharing[id]) == 0 {
			delete(b.sharing, id)
		}
	}
	if now != nil {
		for _, id := range shareable(now.Setup) {
			ids = append(ids, id)
			b.sharing[id] = append(b.sharing[id], name)
		}
	}
	for _, id := range ids {
		for _, n := range b.sharing[id] {
			s := *b.sellers[n]
			s.Twins = nil
			for _, own := range shareable(s.Setup) {
				if first := b.first(own); first != n {
					if s.Twins == nil {
						s.Twins = map[string]string{}
					}
					s.Twins[own] = first
				}
			}
			b.sellers[n] = &s
		}
	}
}

// first is the seller whose set-up took the identity first, as far as its version tells.
func (b *Registry) first(id string) string {
	return slices.MinFunc(b.sharing[id], func(x, y string) int {
		return cmp.Or(cmp.Compare(b.sellers[x].Version, b.sellers[y].Version), cmp.Compare(x, y))
	})
}

// Loses tells what a document of the seller loses when now takes the place of was, in words, zero when nothing: its warehouse
// or shop is taken out, or another account is asked about it than that under which it was sent (identity; "" when that is
// not known).
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

// MayLose tells whether Loses finds something for any document at all.
func MayLose(was, now *Seller) bool {
	return slices.ContainsFunc(was.Setup.Warehouses, func(w *sellerv1.Warehouse) bool {
		_, stays := now.Warehouse(w.Code)
		return !stays || was.IdentityOf(w.Code) != now.IdentityOf(w.Code)
	}) || slices.ContainsFunc(was.Setup.Shops, func(s *sellerv1.Shop) bool { _, stays := now.Shop(s.Code); return !stays })
}
