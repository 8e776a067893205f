// Package jdaccount knows what JD needs in the settings of an account. It stands apart from package jd, which makes calls
// and knows sellers, so that programs that check settings can ask it.
package jdaccount

import (
	"crypto/sha256"
	"fmt"
	"net/url"
	"strings"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
)

const (
	// callsPerSecond and concurrentCalls are an application's quota when the settings have none. JD guarantees no figure;
	// both are safe (see docs/jd-api.md, Limits and idempotency).
	callsPerSecond  = 5
	concurrentCalls = 5
)

// flowEvery is the shortest interval between two readings of a place's flow at JD itself. A sandbox may be asked as often
// as a test likes.
const flowEvery = 30 * time.Second

// Kind is the accounts of JD.
type Kind struct{}

var _ warehouse.Kind = Kind{}

// Validate returns what JD needs and the account lacks.
func (Kind) Validate(a *sellerv1.Account) []fault.Reason {
	var faults []fault.Reason
	// An address that is none was reported before.
	if u, err := url.Parse(a.GetUrl()); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && strings.Trim(u.Path, "/") == "" {
		faults = append(faults, fault.Reason{Code: "setup.value", Field: "url",
			ZH: "缺少路径：京东网关的地址以 /routerjson 结尾", EN: "the path is missing: the address of JD's gateway ends in /routerjson"})
	}
	for _, need := range []struct {
		field    string
		given    bool
		zh, what string
	}{
		{"app_key", a.GetAppKey() != "", "开放平台应用的 App Key", "the App Key of the application on the open platform"},
		{"app_secret", a.GetAppSecret() != nil, "App Secret 所在的 file 或 env", "the file or env that holds the App Secret"},
		{"access_token", a.GetAccessToken() != nil || a.GetTokenOwner() == sellerv1.Account_TOKEN_OWNER_OURS, "授权令牌所在的 file 或 env", "the file or env that holds the merchant's token"},
		{"department", a.GetDepartment() != "", "事业部编号", "the number of the business unit"},
		{"vendor_source", a.GetVendorSource() != "", "仓库方分配的 ERP 编号", "the ERP vendor's number, given by the warehouse"},
	} {
		if !need.given {
			faults = append(faults, missing(need.field, need.zh, need.what))
		}
	}
	return faults
}

// ValidateWarehouse wants JD's number.
func (Kind) ValidateWarehouse(w *sellerv1.Warehouse) []fault.Reason {
	if w.GetWarehouseNo() == "" {
		return []fault.Reason{missing("warehouse_no", "仓库方的仓库编号", "the warehouse's own number")}
	}
	return nil
}

// ValidateStock rejects the method that lists sales only, and reading JD itself too often.
func (Kind) ValidateStock(a *sellerv1.Account, stock *sellerv1.Stock) []fault.Reason {
	var faults []fault.Reason
	if stock.GetFlow() == sellerv1.Stock_FLOW_SEARCH {
		faults = append(faults, fault.Reason{
			Code: "setup.value", Field: "flow",
			ZH: "search（searchShopStockFlow）只返回销售出库单的流水，不含采购入库、退货、盘点和等级变更，据此记账必然出错；请删除 stock.flow，改用默认的流水接口",
			EN: "search (searchShopStockFlow) returns the movements of sales orders only: no receipts, returns, stock-takes or changes of level, so a book built from it is wrong. Remove stock.flow: the default flow has all of them",
		})
	}
	if a.GetUrl() == "" && stock.GetEvery() != nil && stock.GetEvery().AsDuration() < flowEvery {
		faults = append(faults, fault.Reason{
			Code: "setup.value", Field: "every",
			ZH: fmt.Sprintf("至少 %v：账号 %s 直接调用仓库方正式环境", flowEvery, a.GetName()),
			EN: fmt.Sprintf("at least %v: account %s calls the real warehouse", flowEvery, a.GetName()),
		})
	}
	return faults
}

func missing(field, zh, what string) fault.Reason {
	return fault.Reason{Code: "setup.missing", Field: field, ZH: "必填：" + zh, EN: "required: " + what}
}

// Identity is application, department and vendor source. It holds only a digest of the application's key, because it is
// published in events, which reach everybody who runs the ERP. The address (url) is not part of it: it is another way to the
// same documents.
func (Kind) Identity(a *sellerv1.Account) warehouse.Identity {
	return warehouse.Identity(fmt.Sprintf("jd/%s/%s/%s", a.GetDepartment(), a.GetVendorSource(), application(a)))
}

// application names the application of an account, without its key.
func application(a *sellerv1.Account) string {
	key := sha256.Sum256([]byte(a.GetAppKey()))
	return fmt.Sprintf("app-%x", key[:4])
}

// Capabilities are those of a remote that others use too. It counts calls by application; at another address another
// remote counts.
func (Kind) Capabilities(a *sellerv1.Account) warehouse.Capabilities {
	name := application(a)
	if u, err := url.Parse(a.GetUrl()); err == nil && u.Host != "" {
		name += "@" + u.Host
	}
	return warehouse.Capabilities{
		Exclusive: a.GetAppKey() != "" && a.GetDepartment() != "" && a.GetVendorSource() != "", Consent: true, Shared: true,
		Quota: warehouse.Quota{Key: a.GetAppKey() + "@" + a.GetUrl(), Application: name, PerSecond: callsPerSecond, Concurrent: concurrentCalls},
	}
}
