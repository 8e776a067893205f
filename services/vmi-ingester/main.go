// Command vmi-ingester reads what moved shops' stock at the warehouses; see README.md.
package main

import (
	"stockbridge/pkg/worker"
	"stockbridge/services/vmi-ingester/ingester"
)

func main() { worker.Main(ingester.Service()) }
