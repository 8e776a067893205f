// Command status-poller follows accepted orders at the warehouses and publishes their progress; see README.md.
package main

import (
	"stockbridge/pkg/worker"
	"stockbridge/services/status-poller/poller"
)

func main() { worker.Main(poller.Service()) }
