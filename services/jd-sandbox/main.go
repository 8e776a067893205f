// Command jd-sandbox is a JD warehouse API that anyone can run. See README.md.
package main

import (
	"os"

	"stockbridge/services/jd-sandbox/sandbox"
)

func main() { os.Exit(sandbox.Main(os.Args[1:], os.Stderr)) }
