package event

import (
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

// Reason is a reason as events carry it.
func Reason(r fault.Reason) *orderv1.Reason {
	return &orderv1.Reason{Code: r.Code, Field: r.Field, Zh: r.ZH, En: r.EN, RemoteCode: r.RemoteCode, RemoteText: r.RemoteText}
}
