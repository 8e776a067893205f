package worker

import "stockbridge/pkg/seller"

// Trust is the settings for what sellers' set-ups may name of the machine; see seller.Trust.
type Trust struct {
	SecretsDir string `env:"SELLER_SECRETS_DIR" envDefault:"/run/secrets/sellers" help:"folder below which the files lie that set-ups name for secrets"`
	SecretsEnv string `env:"SELLER_SECRETS_ENV" envDefault:"JD_" help:"comma-separated prefixes of the variables that set-ups name for secrets"`
	HTTPHosts  string `env:"SELLER_HTTP_HOSTS" help:"comma-separated hosts besides loopback that set-ups may call without TLS, such as a sandbox"`
}

// Parse converts the settings.
func (t Trust) Parse() (seller.Trust, error) {
	return seller.ParseTrust(t.SecretsDir, t.SecretsEnv, t.HTTPHosts)
}

// Validate names the wrong values.
func (t Trust) Validate() error {
	_, err := t.Parse()
	return err
}
