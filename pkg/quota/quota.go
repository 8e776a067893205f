// Package quota names the priorities of calls to warehouses. It is the one list of them: adapters say with which priority
// they call, the ledger shares the quota by it, metrics use it as a label.
package quota

import "slices"

// Class is the priority of a call within a quota.
type Class string

// The classes, most urgent first. Status and Stock have reserved minimums that the other classes cannot use.
const (
	Cancel Class = "cancel"
	Push   Class = "push"
	Status Class = "status"
	Stock  Class = "stock"
)

// Classes returns all classes, most urgent first.
func Classes() []Class { return []Class{Cancel, Push, Status, Stock} }

// Valid reports whether c is one of Classes.
func (c Class) Valid() bool { return slices.Contains(Classes(), c) }
