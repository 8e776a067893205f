package event

import (
	"stockbridge/pkg/fault"
	documentv1 "stockbridge/proto/document/v1"
)

// Reason is a reason as events carry it.
func Reason(r fault.Reason) *documentv1.Reason {
	return &documentv1.Reason{Code: r.Code, Field: r.Field, Zh: r.ZH, En: r.EN, RemoteCode: r.RemoteCode, RemoteText: r.RemoteText}
}
