// Command bridgectl is the operator's tool; see README.md.
package main

import "stockbridge/services/bridgectl/ctl"

func main() { ctl.Main() }
