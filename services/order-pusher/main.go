// Command order-pusher sends audited orders to the warehouses that ship them; see README.md.
package main

import (
	"stockbridge/pkg/worker"
	"stockbridge/services/order-pusher/pusher"
)

func main() { worker.Main(pusher.Service()) }
