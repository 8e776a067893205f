// Command reconciler compares what ERPs audited with what their warehouses know, repairs what was lost and names the rest;
// see README.md.
package main

import (
	"stockbridge/pkg/worker"
	"stockbridge/services/reconciler/reconciler"
)

func main() { worker.Main(reconciler.Service()) }
