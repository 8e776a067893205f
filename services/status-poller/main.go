// Command status-poller follows accepted orders at the warehouses and tells what becomes of them; see README.md.
package main

import (
	"stockbridge/pkg/worker"
	"stockbridge/services/status-poller/poller"
)

func main() { worker.Main("status-poller", poller.Run) }
