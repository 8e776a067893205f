// Command stock-syncer counts warehouses, finds where books of stock differ, and publishes what shops may offer; see
// README.md.
package main

import (
	"stockbridge/pkg/worker"
	"stockbridge/services/stock-syncer/syncer"
)

func main() { worker.Main(syncer.Service()) }
