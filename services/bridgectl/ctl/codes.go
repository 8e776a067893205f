package ctl

import (
	_ "embed"
	"slices"
	"strings"
)

// codes are the reason codes that docs/events.md explains, one a line.
//
//go:embed codes.txt
var codes string

func knownCodes() []string { return slices.Collect(strings.FieldsSeq(codes)) }
