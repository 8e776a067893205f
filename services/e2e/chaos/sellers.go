//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"stockbridge/pkg/jdsandbox"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/history"
)

// merchant is a seller of the run with its own credential.
type merchant struct {
	name string
	// perSecond and concurrent are what JD allows its app. The set-up says one call a second less: the calls' travel
	// times vary more than the ledger's pacing allows for where one machine runs everything.
	perSecond, concurrent int
	// share of the steady flow; 0 publishes only in bursts.
	share int
}

// The sellers. The first three are an ordinary day; one floods with a small quota, one is paused for a while.
const (
	flooding = "flood"
	resting  = "rest"
)

func merchants(perSecond, concurrent int) []merchant {
	return []merchant{
		{"amber", perSecond, concurrent, 4}, {"birch", perSecond, concurrent, 3}, {"cedar", perSecond, concurrent, 2},
		{resting, perSecond, concurrent, 1}, {flooding, 16, 6, 0},
	}
}

func (m merchant) app() history.App {
	return history.App{Key: "app-" + m.name, PerSecond: m.perSecond, Concurrent: m.concurrent}
}

func (m merchant) department() string { return "EBU-" + m.name }
func (m merchant) shop() string       { return "ESP-" + m.name }

// A merchant moves to another department, which has a shop of its own.
func (m merchant) newDepartment() string { return m.department() + "-2" }
func (m merchant) newShop() string       { return m.shop() + "-2" }

const warehouseNo = "110006341"

// sandbox is a JD that knows them. Its clock stands still: orders are accepted and do not move.
func sandbox(list []merchant) jdsandbox.Config {
	c := jdsandbox.Config{
		Stopped: true, Warehouses: []jdsandbox.Warehouse{{WarehouseNo: warehouseNo, WarehouseName: "W"}},
		Shippers: []jdsandbox.Shipper{{ShipperNo: "CYS0000010", ShipperName: "JD", Status: "1", IsCod: "1"}},
	}
	for _, m := range list {
		c.Apps = append(c.Apps, jdsandbox.App{Key: m.app().Key, Secret: "secret-" + m.name, Tokens: []jdsandbox.Token{
			{Value: "token-" + m.name, Departments: []string{m.department(), m.newDepartment()}},
		}})
		c.Shops = append(c.Shops, jdsandbox.Shop{ShopNo: m.shop(), ShopName: m.name, DeptNo: m.department()},
			jdsandbox.Shop{ShopNo: m.newShop(), ShopName: m.name, DeptNo: m.newDepartment()})
		c.Knobs.Quota.PerSecond = max(c.Knobs.Quota.PerSecond, m.perSecond)
		c.Knobs.Quota.Concurrent = max(c.Knobs.Quota.Concurrent, m.concurrent)
	}
	return c
}

// setup is what an operator applies. Secrets go into files of dir.
func (m merchant) setup(dir, jd string) (*sellerv1.Setup, error) {
	secret := func(what string) (*sellerv1.SecretRef, error) {
		path := filepath.Join(dir, "secrets", what+"-"+m.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(what+"-"+m.name+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("write the credentials of %s: %w", m.name, err)
		}
		return &sellerv1.SecretRef{File: path}, nil
	}
	appSecret, err := secret("secret")
	if err != nil {
		return nil, err
	}
	token, err := secret("token")
	if err != nil {
		return nil, err
	}
	return &sellerv1.Setup{
		Name: m.name, Title: m.name,
		Accounts: []*sellerv1.Account{{
			Name: "jd", Kind: sellerv1.Account_KIND_JD, Url: stack.GatewayURL(jd), AppKey: m.app().Key, AppSecret: appSecret,
			AccessToken: token, TokenOwner: sellerv1.Account_TOKEN_OWNER_EXTERNAL, Department: m.department(), VendorSource: "ISV0000000000001",
			Quota: &sellerv1.Quota{PerSecond: float64(m.perSecond - 1), Concurrent: int32(m.concurrent)},
		}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "jd", WarehouseNo: warehouseNo}},
		Shops:      []*sellerv1.Shop{{Code: "S01", ShopNo: m.shop(), Warehouses: []string{"W01"}}},
		Carriers:   []*sellerv1.Mapping{{Code: "JD", Number: "CYS0000010"}},
		Platforms:  []*sellerv1.Mapping{{Code: "tmall", Number: "2"}, {Code: "taobao", Number: "8"}},
	}, nil
}
