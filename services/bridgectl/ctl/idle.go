package ctl

import "context"

// idleCmd is for a pod that has the connections and the secrets, in which an operator runs commands (kubectl exec): the
// image holds no other program that could wait.
type idleCmd struct{}

func (idleCmd) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
