package ctl

import "context"

// idleCmd keeps a pod alive that has the connections and the secrets, so that an operator can run commands in it
// (kubectl exec). The image holds no other program that could wait.
type idleCmd struct{}

func (idleCmd) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
