// Command document-pusher sends purchase orders to the warehouses that receive them, and cancels them; see README.md.
package main

import (
	"stockbridge/pkg/worker"
	"stockbridge/services/document-pusher/documents"
)

func main() { worker.Main(documents.Service()) }
