package seller_test

import (
	"errors"
	"strings"
	"testing"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

func TestWhatASetupMayNameOfTheMachine(t *testing.T) {
	t.Parallel()
	trust, err := seller.ParseTrust(seller.DefaultSecretsDir, seller.DefaultSecretsEnv, " jd-sandbox ,sandbox.stock.svc")
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) *sellerv1.SecretRef { return &sellerv1.SecretRef{File: name} }
	variable := func(name string) *sellerv1.SecretRef { return &sellerv1.SecretRef{Env: name} }
	for what, test := range map[string]struct {
		account *sellerv1.Account
		field   string
	}{
		"a file of sellers":               {&sellerv1.Account{AppSecret: file("/run/secrets/sellers/acme/app-secret")}, ""},
		"a file named from there":         {&sellerv1.Account{AppSecret: file("acme/app-secret")}, ""},
		"a variable of sellers":           {&sellerv1.Account{AccessToken: variable("JD_ACME_TOKEN")}, ""},
		"the worker's own variable":       {&sellerv1.Account{AccessToken: variable("TOKEN_KEY")}, "accounts.jd.access_token"},
		"the ledger's address":            {&sellerv1.Account{AppSecret: variable("REDIS_URL")}, "accounts.jd.app_secret"},
		"any file of the pod":             {&sellerv1.Account{AppSecret: file("/run/secrets/settings/TOKEN_KEY/value")}, "accounts.jd.app_secret"},
		"a way out of the folder":         {&sellerv1.Account{AccessToken: file("/run/secrets/sellers/../token-key")}, "accounts.jd.access_token"},
		"a way out of it from inside":     {&sellerv1.Account{AccessToken: file("../token-key")}, "accounts.jd.access_token"},
		"a folder with a like name":       {&sellerv1.Account{AccessToken: file("/run/secrets/sellers-own/key")}, "accounts.jd.access_token"},
		"the folder itself":               {&sellerv1.Account{AccessToken: file("/run/secrets/sellers/")}, "accounts.jd.access_token"},
		"an address with TLS":             {&sellerv1.Account{Url: "https://api.example/routerjson"}, ""},
		"loopback without TLS":            {&sellerv1.Account{Url: "http://127.0.0.1:18080/routerjson"}, ""},
		"loopback by name":                {&sellerv1.Account{Url: "http://localhost:18080/routerjson"}, ""},
		"loopback of IPv6":                {&sellerv1.Account{Url: "http://[::1]:18080/routerjson"}, ""},
		"a host of the settings":          {&sellerv1.Account{Url: "http://jd-sandbox:18080/routerjson"}, ""},
		"another host without TLS":        {&sellerv1.Account{Url: "http://attacker.example/routerjson"}, "accounts.jd.url"},
		"a host that begins as loopback":  {&sellerv1.Account{Url: "http://127.0.0.1.example/routerjson"}, "accounts.jd.url"},
		"authorisation without TLS":       {&sellerv1.Account{Authorization: &sellerv1.Authorization{Url: "http://oauth.example"}}, "accounts.jd.authorization.url"},
		"neither secrets nor an address":  {&sellerv1.Account{}, ""},
		"a variable named like a prefix ": {&sellerv1.Account{AccessToken: variable("jd_token")}, "accounts.jd.access_token"},
	} {
		t.Run(what, func(t *testing.T) {
			test.account.Name = "jd"
			err := trust.Account(test.account)
			var reason fault.Reason
			errors.As(err, &reason)
			if reason.Field != test.field {
				t.Errorf("got %v, want a fault of %q", err, test.field)
			}
			if err != nil && (reason.ZH == "" || !strings.Contains(reason.EN, "SELLER_")) {
				t.Errorf("it does not say which setting decides: %+v", reason)
			}
		})
	}
	if err := (seller.Trust{}).Account(&sellerv1.Account{Url: "http://x.example", AppSecret: file("/etc/passwd")}); err != nil {
		t.Errorf("the zero value trusts every set-up: %v", err)
	}
}

func TestTrustThatWouldTrustEverythingIsRefused(t *testing.T) {
	t.Parallel()
	for what, settings := range map[string][3]string{
		"no folder":         {"", "JD_", ""},
		"the root":          {"/", "JD_", ""},
		"a relative folder": {"secrets", "JD_", ""},
		"no prefix":         {"/run/secrets/sellers", " , ", ""},
	} {
		if _, err := seller.ParseTrust(settings[0], settings[1], settings[2]); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}
