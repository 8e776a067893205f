package seller_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

const acme = `# A seller with one credential and two warehouses.
name: acme
title: 艾克米
accounts:
  - name: jd
    kind: jd
    app_key: KEY
    app_secret: {file: /run/secrets/acme-app-secret}
    access_token: {env: ACME_TOKEN}
    token_owner: external
    department: EBU0000000006313
    vendor_source: ISV0000000000005
    quota: {per_second: 2.5, concurrent: 3}
warehouses:
  - {code: 007, account: jd, warehouse_no: 110006341}
  - {code: B/2, account: jd, warehouse_no: 110006342}
shops:
  - {code: S01, shop_no: ESP1, warehouses: [007, B/2]}
  - {code: S/02, shop_no: ESP1, warehouses: [B/2]}
  - {code: no, shop_no: ESP2, warehouses: [007], hold: 促销}
carriers: [{code: ZTO, number: CYS4418046511112}]
suppliers: [{code: A/1, number: EMS4398046512427}]
categories: [{code: 服装, number: 4159}]
platforms: [{code: taobao, number: 8}]
`

func TestASetupIsReadAsWritten(t *testing.T) {
	setup, err := seller.Parse([]byte(acme))
	if err != nil {
		t.Fatal(err)
	}
	if got := setup.Warehouses[0].Code + " " + setup.Warehouses[0].WarehouseNo + " " + setup.Shops[2].Code; got != "007 110006341 no" {
		t.Errorf("codes read %q: want them as written", got)
	}
	if setup.Accounts[0].Kind != sellerv1.Account_KIND_JD || setup.Accounts[0].TokenOwner != sellerv1.Account_TOKEN_OWNER_EXTERNAL {
		t.Errorf("enums read as %v, %v", setup.Accounts[0].Kind, setup.Accounts[0].TokenOwner)
	}
	rendered, err := seller.Render(setup)
	if err != nil {
		t.Fatal(err)
	}
	again, err := seller.Parse(rendered)
	if err != nil {
		t.Fatalf("rendered text: %v\n%s", err, rendered)
	}
	if diff := cmp.Diff(setup, again, protocmp.Transform()); diff != "" {
		t.Errorf("rendered and parsed (-want +got):\n%s", diff)
	}
	json, err := protojson.Marshal(setup)
	if err != nil {
		t.Fatal(err)
	}
	if again, err = seller.Parse(json); err != nil {
		t.Fatalf("JSON: %v", err)
	}
	if diff := cmp.Diff(setup, again, protocmp.Transform()); diff != "" {
		t.Errorf("as JSON (-want +got):\n%s", diff)
	}
}

func TestAllFaultsOfASetupAreNamed(t *testing.T) {
	for _, test := range []struct {
		name     string
		from, to string
		want     []string // "path: part of the English text"
	}{
		{"an unknown key is named with its path", "    app_key: KEY\n", "    app_key: KEY\n    app_keys: K\n", []string{"accounts[0].app_keys: line 8: unknown key; known here: name, kind"}},
		{"a key given twice", "title: 艾克米", "title: 艾克米\ntitle: x", []string{"title: line 4: the key is given twice"}},
		{"a key without a value", "platforms:", "trial:\nplatforms:", []string{"trial: line 24: no value"}},
		{"a list where a value belongs", "title: 艾克米", "title: [a]", []string{"title: line 3: want a single value"}},
		{"a value where a list belongs", "[{code: taobao, number: 8}]", "taobao", []string{"platforms: line 24: want a list"}},
		{"a value where keys belong", "{env: ACME_TOKEN}", "tok", []string{"accounts[0].access_token: line 9: want keys with values"}},
		{"a number that is none", "per_second: 2.5", "per_second: .nan", []string{"accounts[0].quota.per_second: line 13: want a number"}},
		{"a budget that no order gets through with", "per_second: 2.5", "per_second: 0.1", []string{"accounts[0].quota.per_second: line 13: at least 0.2"}},
		{"a word that is none", "kind: jd", "kind: dj", []string{"accounts[0].kind: line 6: want one of jd, memory"}},
		{"the same shop twice", "code: S/02", "code: S01", []string{"shops[1].code: line 19: S01 is listed twice"}},
		{"a shop that uses an unknown warehouse", "warehouses: [B/2]}", "warehouses: [B/3]}", []string{"shops[1].warehouses[0]: line 19: B/3 is not in warehouses"}},
		{"a warehouse of an unknown account", "B/2, account: jd", "B/2, account: tm", []string{"warehouses[1].account: line 16: tm is not in accounts"}},
		{"a warehouse without a number", ", warehouse_no: 110006342", "", []string{"warehouses[1].warehouse_no: line 16: required"}},
		{"an account that lacks everything", acme[strings.Index(acme, "    app_key"):strings.Index(acme, "    quota")], "", []string{
			"accounts[0].app_key: line 5: required", "accounts[0].app_secret: line 5", "accounts[0].access_token: line 5",
			"accounts[0].department: line 5", "accounts[0].vendor_source: line 5"}},
		{"a secret in two places", "{env: ACME_TOKEN}", "{env: A, file: B}", []string{"accounts[0].access_token: line 9: exactly one"}},
		{"a flow that has sales only", "title: 艾克米", "title: 艾克米\nstock: {flow: search}", []string{"stock.flow: line 4: search (searchShopStockFlow) returns the movements of sales orders only"}},
		{"the gateway's address without its path", "    app_key: KEY\n", "    app_key: KEY\n    url: https://sandbox:18080/\n", []string{"accounts[0].url: line 8: the path is missing"}},
		{"an address with a password", "    app_key: KEY\n", "    app_key: KEY\n    url: https://u:planted@h/\n", []string{"accounts[0].url: line 8: want http(s)"}},
		{"an authorisation server with a password", "    app_key: KEY\n", "    app_key: KEY\n    authorization: {platform: old, url: 'http://u:planted@h', redirect_uri: x}\n", []string{
			"accounts[0].authorization.url: line 8: want http(s)", "accounts[0].authorization.redirect_uri: line 8: want http(s)"}},
		{"rules of the contract, all at once", "name: acme\n", "name: ACME\nshipped_when_packed: yes\n", []string{
			"shipped_when_packed: line 3: want true or false", "name: line 2: "}},
		{"a second document", "title: 艾克米", "title: x\n---\nname: b", []string{": one seller a file"}},
		{"no YAML", "title: 艾克米", "title: [", []string{": neither YAML nor JSON"}},
		{"nothing", acme, "# nothing\n", []string{": the set-up is empty"}},
		{"a list", acme, "- a\n", []string{": line 1: want keys", "name: ", "accounts: ", "warehouses: ", "shops: "}},
		{"an alias within itself", "shops:\n", "shops:\n  - &s {code: A, shop_no: E, warehouses: [*s]}\n", []string{"shops[0].warehouses[0]: line 18: want a single value"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(acme, test.from) {
				t.Fatalf("the sample has no %q", test.from)
			}
			_, err := seller.Parse([]byte(strings.Replace(acme, test.from, test.to, 1)))
			var faults seller.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("got %v, want faults", err)
			}
			if len(faults) != len(test.want) {
				t.Errorf("got %d faults, want %d:\n%v", len(faults), len(test.want), err)
			}
			for i := range min(len(faults), len(test.want)) {
				f := faults[i]
				if got := f.Field + ": " + f.EN; !strings.HasPrefix(got, test.want[i]) {
					t.Errorf("got %q, want %q", got, test.want[i])
				}
				if f.Code == "" || f.ZH == "" || f.ZH == f.EN || strings.Contains(f.ZH+f.EN, "%!") {
					t.Errorf("fault not fit for people: %+v", f)
				}
			}
			if strings.Contains(err.Error(), "planted") {
				t.Error("the fault shows a secret")
			}
			var reason fault.Reason
			if !errors.As(err, &reason) {
				t.Error("no fault.Reason in the error")
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(acme))
	f.Add([]byte(`{"name":"a"}`))
	f.Add([]byte("a: &a [*a]\nb: !!binary x\n? [c]\n: d\n<<: *a"))
	f.Fuzz(func(t *testing.T, text []byte) {
		setup, err := seller.Parse(text)
		if err != nil {
			return
		}
		rendered, err := seller.Render(setup)
		if err != nil {
			t.Fatal(err)
		}
		again, err := seller.Parse(rendered)
		if err != nil {
			t.Fatalf("%v\n%s", err, rendered)
		}
		if diff := cmp.Diff(setup, again, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	})
}
