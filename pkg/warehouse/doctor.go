package warehouse

import "context"

// Doctor finds out what is wrong with a set-up by trying it. It is an optional role: ask a value for it.
type Doctor interface {
	// Diagnose tries all that orders need of the far side, and stock where it is followed: clock, credential, the permission for each call, the form of
	// numbers. It changes nothing there, and makes as few calls as it can. It tells one row for each thing, in the order
	// in which a person would mend them; what could not be tried because of an earlier row is left out.
	Diagnose(ctx context.Context) []Diagnosis
}

// Diagnosis is one thing that was tried.
type Diagnosis struct {
	// What was tried, in the far side's or the set-up's own words.
	What string
	// Note is what was seen when it is fine; may be empty.
	Note string
	// Err is nil when it is fine, else a fault.Reason that says what to mend.
	Err error
}
