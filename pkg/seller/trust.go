package seller

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"stockbridge/pkg/fault"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Defaults of Trust's settings.
const (
	// DefaultSecretsDir is where the chart mounts sellers' secrets.
	DefaultSecretsDir = "/run/secrets/sellers"
	// DefaultSecretsEnv is a prefix that no setting of a worker has (a test holds that).
	DefaultSecretsEnv = "JD_"
)

// Trust limits what a set-up may name of the machine that it is used on.
//
// The zero value trusts every set-up. Programs that read set-ups written by others must not use it: the author of a
// set-up could have a worker send its own token key, as a merchant's token, to a url of their choice.
type Trust struct {
	// Dir is the folder below which secrets' files lie; a relative path is taken from there. Empty trusts every file.
	Dir string
	// EnvPrefixes are what the names of secrets' variables begin with. None trusts every variable.
	EnvPrefixes []string
	// HTTPHosts are the hosts that may be called without TLS besides loopback, such as a sandbox inside the cluster. Nil
	// trusts every host; an empty list trusts loopback only.
	HTTPHosts []string
}

// ParseTrust reads the settings SELLER_SECRETS_DIR, SELLER_SECRETS_ENV and SELLER_HTTP_HOSTS, the latter two comma-separated.
func ParseTrust(dir, envPrefixes, httpHosts string) (Trust, error) {
	t := Trust{Dir: dir, EnvPrefixes: splitList(envPrefixes), HTTPHosts: splitList(httpHosts)}
	if !filepath.IsAbs(dir) || filepath.Clean(dir) == filepath.Dir(filepath.Clean(dir)) {
		return Trust{}, fmt.Errorf("SELLER_SECRETS_DIR: want the absolute path of a folder of sellers' secrets and nothing else, such as %s", DefaultSecretsDir)
	}
	if len(t.EnvPrefixes) == 0 {
		return Trust{}, fmt.Errorf("SELLER_SECRETS_ENV: want prefixes of variables, such as %s", DefaultSecretsEnv)
	}
	return t, nil
}

// splitList splits a comma-separated list; never nil.
func splitList(list string) []string {
	all := []string{}
	for word := range strings.SplitSeq(list, ",") {
		if word = strings.TrimSpace(word); word != "" {
			all = append(all, word)
		}
	}
	return all
}

// File is the path of a secret's file. Its error is a fault.Reason.
func (t Trust) File(name string) (string, error) {
	if t.Dir == "" {
		return name, nil
	}
	path := filepath.Clean(name)
	if !filepath.IsAbs(path) {
		path = filepath.Join(t.Dir, path)
	}
	if inside, err := filepath.Rel(t.Dir, path); err != nil || !filepath.IsLocal(inside) || inside == "." {
		return "", fault.Reason{
			Code: "setup.secret",
			ZH:   fmt.Sprintf("密钥文件必须位于 %s 之下（环境变量 SELLER_SECRETS_DIR 可更改该目录）", t.Dir),
			EN:   fmt.Sprintf("a secret's file must lie below %s (the workers' setting SELLER_SECRETS_DIR names another folder)", t.Dir),
		}
	}
	return path, nil
}

// Env is nil when a secret may be read from the variable. Else it is a fault.Reason.
func (t Trust) Env(name string) error {
	begins := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	if len(t.EnvPrefixes) == 0 || slices.ContainsFunc(t.EnvPrefixes, begins) {
		return nil
	}
	prefixes := strings.Join(t.EnvPrefixes, ", ")
	return fault.Reason{
		Code: "setup.secret",
		ZH:   fmt.Sprintf("存放密钥的环境变量名必须以 %s 开头（环境变量 SELLER_SECRETS_ENV 可更改）", prefixes),
		EN:   fmt.Sprintf("the name of a secret's variable must begin with %s (the workers' setting SELLER_SECRETS_ENV names other prefixes)", prefixes),
	}
}

// URL is nil when address may be called: credentials are sent there, so without TLS only to loopback and HTTPHosts.
// Else it is a fault.Reason.
func (t Trust) URL(address string) error {
	u, err := url.Parse(address)
	if t.HTTPHosts == nil || address == "" || err == nil && (u.Scheme == "https" || loopback(u.Hostname()) || slices.Contains(t.HTTPHosts, u.Hostname())) {
		return nil
	}
	return fault.Reason{
		Code: "setup.http",
		ZH:   "授权信息只能经 https 发送；http 仅限本机地址（环境变量 SELLER_HTTP_HOSTS 可列出集群内的沙箱主机）",
		EN:   "credentials travel by https only; http is for loopback (the workers' setting SELLER_HTTP_HOSTS lists further hosts, such as a sandbox in the cluster)",
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Account is the first fault of what the account names, with its field, as a fault.Reason; nil for none.
func (t Trust) Account(a *sellerv1.Account) error {
	for _, look := range []struct {
		field string
		err   error
	}{
		{"url", t.URL(a.GetUrl())},
		{"authorization.url", t.URL(a.GetAuthorization().GetUrl())},
		{"app_secret", t.secret(a.GetAppSecret())},
		{"access_token", t.secret(a.GetAccessToken())},
	} {
		if look.err != nil {
			reason := fault.ReasonOf(look.err, "")
			reason.Field = "accounts." + a.GetName() + "." + look.field
			return reason
		}
	}
	return nil
}

func (t Trust) secret(ref *sellerv1.SecretRef) error {
	if ref.GetFile() != "" {
		_, err := t.File(ref.GetFile())
		return err
	}
	if ref.GetEnv() != "" {
		return t.Env(ref.GetEnv())
	}
	return nil
}
