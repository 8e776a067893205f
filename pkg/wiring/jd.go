package wiring

import (
	"os"

	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd"
	"stockbridge/pkg/warehouse/jd/jdapi"
	sellerv1 "stockbridge/proto/seller/v1"
)

func jdAdapter() adapter {
	transport := jdapi.NewTransport()
	return adapter{
		open: func(o opening) (warehouse.Identified, error) {
			return jd.New(jd.Options{
				Seller: o.seller, Warehouse: o.code, Class: o.class, ReadOnly: o.readOnly, Limiter: o.limiter, Env: os.Getenv, Trust: o.trust,
				Tokens: o.tokens, Transport: transport, Metrics: o.metrics,
			})
		},
		authority: func(a *sellerv1.Account, trust seller.Trust) token.Authority {
			return jd.NewAuthority(a, os.Getenv, trust, transport)
		},
		close: transport.CloseIdleConnections,
	}
}
