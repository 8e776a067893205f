package jdaccount

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
)

func account() *sellerv1.Account {
	return &sellerv1.Account{
		Name: "main", AppKey: "KEY", AppSecret: &sellerv1.SecretRef{Env: "JD_SECRET"}, AccessToken: &sellerv1.SecretRef{File: "/token"},
		Department: "EBU1", VendorSource: "ISV1",
	}
}

func TestWhatAnAccountLacks(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*sellerv1.Account)
		fields string
	}{
		{"nothing", func(*sellerv1.Account) {}, ""},
		{"everything", func(a *sellerv1.Account) { proto.Reset(a) }, "app_key app_secret access_token department vendor_source"},
		{"a token is not needed when we refresh it", func(a *sellerv1.Account) { a.AccessToken, a.TokenOwner = nil, sellerv1.Account_TOKEN_OWNER_OURS }, ""},
		{"the path of the gateway", func(a *sellerv1.Account) { a.Url = "https://api.jd.com/" }, "url"},
		{"an address that is none is reported elsewhere", func(a *sellerv1.Account) { a.Url = "api.jd.com" }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := account()
			c.change(a)
			var fields []string
			for _, r := range (Kind{}).Validate(a) {
				if r.ZH == "" || r.EN == "" || r.Code == "" {
					t.Errorf("%+v", r)
				}
				fields = append(fields, r.Field)
			}
			if got := strings.Join(fields, " "); got != c.fields {
				t.Errorf("got %q, want %q", got, c.fields)
			}
		})
	}
	if got := (Kind{}).ValidateWarehouse(&sellerv1.Warehouse{}); len(got) != 1 || got[0].Field != "warehouse_no" {
		t.Errorf("a warehouse without a number: %v", got)
	}
	if got := (Kind{}).ValidateWarehouse(&sellerv1.Warehouse{WarehouseNo: "110000001"}); got != nil {
		t.Errorf("a warehouse with one: %v", got)
	}
}

// Two accounts with one identity see each other's documents: the address is no part of it, the key is not shown.
func TestAnIdentityIsApplicationDepartmentAndVendor(t *testing.T) {
	same, others := account(), []*sellerv1.Account{account(), account(), account()}
	same.Name, same.Url = "other", "https://api.jd.com/routerjson"
	others[0].AppKey, others[1].Department, others[2].VendorSource = "K2", "EBU2", "ISV2"
	id := (Kind{}).Identity(account())
	if strings.Contains(string(id), "KEY") || (Kind{}).Identity(same) != id {
		t.Errorf("%s, %s", id, (Kind{}).Identity(same))
	}
	if slices.ContainsFunc(others, func(a *sellerv1.Account) bool { return (Kind{}).Identity(a) == id }) {
		t.Error("another account has the same identity")
	}
}

func TestWhatAnAccountCanDo(t *testing.T) {
	atJD, sandbox, incomplete := account(), account(), account()
	sandbox.Url = "http://127.0.0.1:18080/routerjson"
	incomplete.VendorSource = ""
	want := func(key, application string) warehouse.Capabilities {
		return warehouse.Capabilities{
			Exclusive: true, Consent: true, Shared: true,
			Quota: warehouse.Quota{Key: key, Application: application, PerSecond: 5, Concurrent: 5},
		}
	}
	if got := (Kind{}).Capabilities(atJD); got != want("KEY@", "app-5ca24005") {
		t.Errorf("at JD: %+v", got)
	}
	if got := (Kind{}).Capabilities(sandbox); got != want("KEY@"+sandbox.Url, "app-5ca24005@127.0.0.1:18080") {
		t.Errorf("in a sandbox: %+v", got)
	}
	if (Kind{}).Capabilities(incomplete).Exclusive {
		t.Error("an identity that is incomplete is exclusive")
	}
}

func TestHowStockMayBeFollowed(t *testing.T) {
	sandbox := account()
	sandbox.Url = "http://127.0.0.1:18080/routerjson"
	often := &sellerv1.Stock{Every: durationpb.New(time.Second)}
	for _, c := range []struct {
		name   string
		a      *sellerv1.Account
		stock  *sellerv1.Stock
		fields string
	}{
		{"by default", account(), &sellerv1.Stock{}, ""},
		{"JD is not asked every second", account(), often, "every"},
		{"a sandbox may be", sandbox, often, ""},
		{"a flow of sales only is no book", sandbox, &sellerv1.Stock{Flow: sellerv1.Stock_FLOW_SEARCH}, "flow"},
	} {
		var fields []string
		for _, r := range (Kind{}).ValidateStock(c.a, c.stock) {
			fields = append(fields, r.Field)
		}
		if got := strings.Join(fields, " "); got != c.fields {
			t.Errorf("%s: got %q, want %q", c.name, got, c.fields)
		}
	}
}
