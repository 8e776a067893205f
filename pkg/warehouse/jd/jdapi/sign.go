package jdapi

import (
	"crypto/md5" // JD's choice
	"encoding/hex"
	"maps"
	"slices"
	"strings"
)

// paramName is the parameter that carries the business request.
const paramName = "360buy_param_json"

// Sign signs parameters by JD's rule (docs/jd-api.md, Signature): names and raw values in byte order of the names, with
// the secret before and after, MD5 in upper-case hex. Parameters without a value are skipped and must not be sent: JD's
// SDKs disagree about them.
func Sign(secret string, parameters map[string]string) string {
	var text strings.Builder
	text.WriteString(secret)
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if value := parameters[name]; name != "" && value != "" {
			text.WriteString(name)
			text.WriteString(value)
		}
	}
	text.WriteString(secret)
	sum := md5.Sum([]byte(text.String())) // JD's choice
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}
