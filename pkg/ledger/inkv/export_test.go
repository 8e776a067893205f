package inkv

// Waiting is how many changes of a quota wait to be written.
func (l *Ledger) Waiting(app string) int {
	l.pacing.mu.Lock()
	defer l.pacing.mu.Unlock()
	return len(l.pacing.waiting[app])
}
