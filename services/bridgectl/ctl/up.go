package ctl

import (
	"context"
)

type upCmd struct {
	DataDir string `type:"path" default:"./data" placeholder:"DIR" help:"Where the embedded broker keeps its files."`
	HTTP    string `name:"http-addr" default:"127.0.0.1:8080" placeholder:"ADDR" help:"Health, readiness and metrics; off for none."`
	Sandbox string `name:"sandbox-addr" default:"127.0.0.1:18080" placeholder:"ADDR" help:"The sandbox; off for none."`
}

func (c upCmd) Run(ctx context.Context, a *app) error {
	return nil
}
