package seller

import (
	"fmt"
	"net/url"
	"slices"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/validation"
	"stockbridge/pkg/warehouse/kinds"
	sellerv1 "stockbridge/proto/seller/v1"
)

// minPerSecond is the smallest usable call budget: two calls in a row must fit into a run.
const minPerSecond = 0.2

// Validate finds all faults of a set-up that did not come from Parse. The error is Faults.
func Validate(setup *sellerv1.Setup) error {
	if faults := validate(setup); len(faults) > 0 {
		return faults
	}
	return nil
}

func validate(setup *sellerv1.Setup) Faults {
	var faults Faults
	broken, err := validation.Broken(setup, "setup.rule")
	faults = append(faults, broken...)
	if err != nil {
		faults = append(faults, fault.Reason{Code: "setup.rule", ZH: err.Error(), EN: err.Error()})
	}
	return append(faults, references(setup)...)
}

// references checks what no single field shows.
func references(setup *sellerv1.Setup) Faults {
	var faults Faults
	add := func(code, field, zh, en string, args ...any) {
		faults = append(faults, fault.Reason{Code: code, Field: field, ZH: fmt.Sprintf(zh, args...), EN: fmt.Sprintf(en, args...)})
	}
	// below adds what an adapter finds wrong with the part of the set-up at a path.
	below := func(at string, found []fault.Reason) {
		for _, r := range found {
			if r.Field = at + "." + r.Field; !slices.Contains(faults, r) { // two accounts may find the same
				faults = append(faults, r)
			}
		}
	}
	once := func(list, key string, n int, code func(int) string) map[string]bool {
		seen := make(map[string]bool, n)
		for i := range n {
			if c := code(i); seen[c] {
				add("setup.duplicate", fmt.Sprintf("%s[%d]%s", list, i, key), "%s 重复出现，请删除一个", "%s is listed twice: delete one", c)
			} else if c != "" {
				seen[c] = true
			}
		}
		return seen
	}
	mapped := func(list string, mappings []*sellerv1.Mapping) {
		once(list, ".code", len(mappings), func(i int) string { return mappings[i].GetCode() })
	}

	shadowFaults(setup, add)
	if setup.GetName() == event.NoSeller {
		add("setup.value", "name", "名称 %[1]s 保留给内部使用", "the name %[1]s is ours", setup.GetName())
	}

	accounts := once("accounts", ".name", len(setup.Accounts), func(i int) string { return setup.Accounts[i].GetName() })
	warehouses := once("warehouses", ".code", len(setup.Warehouses), func(i int) string { return setup.Warehouses[i].GetCode() })
	once("shops", ".code", len(setup.Shops), func(i int) string { return setup.Shops[i].GetCode() })
	mapped("carriers", setup.Carriers)
	mapped("suppliers", setup.Suppliers)
	mapped("categories", setup.Categories)
	mapped("platforms", setup.Platforms)

	byName := map[string]*sellerv1.Account{}
	for i, a := range setup.Accounts {
		at := fmt.Sprintf("accounts[%d]", i)
		byName[a.GetName()] = a
		for _, address := range []struct{ key, text string }{
			{".url", a.GetUrl()}, {".authorization.url", a.GetAuthorization().GetUrl()}, {".authorization.redirect_uri", a.GetAuthorization().GetRedirectUri()},
		} {
			if address.text == "" {
				continue
			}
			u, err := url.Parse(address.text)
			// Anything may be a secret here: the text itself is not repeated.
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
				add("setup.value", at+address.key, "应为 http(s)://主机[:端口]/路径，且不含用户名和密码", "want http(s)://host[:port]/path without user and password")
			}
		}
		if q := a.GetQuota().GetPerSecond(); q > 0 && q < minPerSecond {
			add("setup.value", at+".quota.per_second", "至少 %[1]g：询问和推送须在一次处理中先后完成", "at least %[1]g: an order is asked for and handed over in one run", minPerSecond)
		}
		below(at, kinds.Of(a).Validate(a))
	}
	for i, w := range setup.Warehouses {
		at := fmt.Sprintf("warehouses[%d]", i)
		if w.GetAccount() != "" && !accounts[w.Account] {
			add("setup.reference", at+".account", "accounts 中没有 %s", "%s is not in accounts", w.Account)
		}
		below(at, kinds.Of(byName[w.GetAccount()]).ValidateWarehouse(w))
	}
	for i, s := range setup.Shops {
		for j, w := range s.GetWarehouses() {
			if w != "" && !warehouses[w] {
				add("setup.reference", fmt.Sprintf("shops[%d].warehouses[%d]", i, j), "warehouses 中没有 %s", "%s is not in warehouses", w)
			}
		}
		once(fmt.Sprintf("shops[%d].warehouses", i), "", len(s.GetWarehouses()), func(j int) string { return s.Warehouses[j] })
	}
	stockFaults(setup, add)
	for _, a := range setup.Accounts {
		if setup.Stock != nil {
			below("stock", kinds.Of(a).ValidateStock(a, setup.Stock))
		}
	}
	return faults
}
