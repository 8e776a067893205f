package warehouse

import "context"

// Doctor checks a set-up by trying it. The ability is optional: use a type assertion.
type Doctor interface {
	// Diagnose tries everything that orders need of the remote, and stock where it is followed: clock, credential,
	// permission for each call, format of numbers. It changes nothing there and makes as few calls as possible. It returns
	// one row for each check, in the order in which a person should fix them; checks that an earlier failure made impossible
	// are left out.
	Diagnose(ctx context.Context) []Diagnosis
}

// Diagnosis is the result of one check.
type Diagnosis struct {
	// What was checked, in the remote's or the set-up's own terms.
	What string
	// Note is what was found if the check passed; may be empty.
	Note string
	// Err is nil if the check passed, otherwise a fault.Reason that says what to fix.
	Err error
}
