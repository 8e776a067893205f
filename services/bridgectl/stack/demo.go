package stack

import (
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/jdsandbox"
	sellerv1 "stockbridge/proto/seller/v1"
)

// DemoSeller is the seller that `bridgectl up` sets up against the sandbox when there is none.
const DemoSeller = "demo"

// demoSpeed makes ten minutes of every second: an order ships after half a minute and is delivered after three.
const demoSpeed = 600

// Numbers of the demo seller at the sandbox.
const (
	DemoDepartment = "EBU0000000000001"
	DemoShop       = "ESP0020000000001"
	DemoWarehouse  = "110006341"
	demoSupplier   = "EMS4398046512427"
)

// DemoSandbox is a sandbox that knows the demo seller.
func DemoSandbox() jdsandbox.Config {
	return jdsandbox.Config{
		Speed:      demoSpeed,
		Warehouses: []jdsandbox.Warehouse{{WarehouseNo: DemoWarehouse, WarehouseName: "示例仓"}},
		Shops:      []jdsandbox.Shop{{ShopNo: DemoShop, ShopName: "示例店", DeptNo: DemoDepartment}},
		Suppliers:  []jdsandbox.Supplier{{EclpSupplierNo: demoSupplier, SupplierName: "示例茶厂", DeptNo: DemoDepartment, Status: "2"}},
		Shippers:   []jdsandbox.Shipper{{ShipperNo: "CYS0000010", ShipperName: "京东快递", Status: "1", IsCod: "1"}},
	}
}

// SecretsDir is the default folder of sellers' secrets of a stack in dir. The key that seals tokens lies in its parent
// folder: no set-up may name that.
func SecretsDir(dir string) string { return filepath.Join(dir, "secrets", "sellers") }

// DemoSetup is the demo seller's set-up against a sandbox at url. It writes the sandbox's credentials into dir, because
// a set-up holds none.
func DemoSetup(dir, url string) (*sellerv1.Setup, error) {
	dir, err := filepath.Abs(SecretsDir(dir))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	secret := func(name, text string) (*sellerv1.SecretRef, error) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("write the sandbox's credentials: %w", err)
		}
		return &sellerv1.SecretRef{File: path}, nil
	}
	appSecret, err := secret("sandbox-app-secret", jdsandbox.DefaultAppSecret)
	if err != nil {
		return nil, err
	}
	token, err := secret("sandbox-token", jdsandbox.DefaultToken)
	if err != nil {
		return nil, err
	}
	return &sellerv1.Setup{
		Name: DemoSeller, Title: "示例商家 (sandbox)",
		Accounts: []*sellerv1.Account{{
			Name: "sandbox", Kind: sellerv1.Account_KIND_JD, Url: GatewayURL(url), AppKey: jdsandbox.DefaultAppKey,
			AppSecret: appSecret, AccessToken: token, TokenOwner: sellerv1.Account_TOKEN_OWNER_EXTERNAL,
			Department: DemoDepartment, VendorSource: "ISV0000000000001",
			Quota: &sellerv1.Quota{PerSecond: 200, Concurrent: 32},
		}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "sandbox", WarehouseNo: DemoWarehouse}},
		Shops:      []*sellerv1.Shop{{Code: "S01", ShopNo: DemoShop, Warehouses: []string{"W01"}}},
		Carriers:   []*sellerv1.Mapping{{Code: "JD", Number: "CYS0000010"}},
		Suppliers:  []*sellerv1.Mapping{{Code: "SUP-9", Number: demoSupplier}},
		Categories: []*sellerv1.Mapping{{Code: "tea", Number: "4159"}},
		Platforms:  []*sellerv1.Mapping{{Code: "jd", Number: "1"}, {Code: "tmall", Number: "2"}, {Code: "taobao", Number: "8"}},
	}, nil
}

// WithShop is the demo seller's set-up with one more shop.
func WithShop(setup *sellerv1.Setup, code string) *sellerv1.Setup {
	more := proto.CloneOf(setup)
	more.Shops = append(more.Shops, &sellerv1.Shop{Code: code, ShopNo: DemoShop, Warehouses: []string{"W01"}})
	return more
}
