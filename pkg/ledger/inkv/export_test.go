package inkv

import "context"

// Waiting is how many changes of a quota wait to be written.
func (l *Ledger) Waiting(app string) int {
	_, waiting := l.paces.Load(app)
	return waiting
}

// SweepBook removes pages of a book that its head does not name.
func (l *Ledger) SweepBook(ctx context.Context, name string) { _ = l.sweepBook(ctx, headKey(name)) }

// Pages is how many pages a book's head names.
func (l *Ledger) Pages(ctx context.Context, name string) int {
	h, _, err := l.head(ctx, name)
	if err != nil {
		return -1
	}
	return len(h.pages)
}
