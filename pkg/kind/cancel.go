package kind

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	documentv1 "stockbridge/proto/document/v1"
)

// CancelledEvent says that a document is cancelled; requestID is "" when nobody asked for it.
func (t Terms) CancelledEvent(ref *documentv1.Ref, at time.Time, requestID string) event.Event {
	m := &documentv1.Cancelled{Ref: ref, At: timestamppb.New(at), RequestId: requestID}
	return t.Topics.Cancelled.About(ref.Seller, ref.No, at, m, ids(ref.WarehouseNo, requestID)...)
}

// CancelRefusedEvent says that a document stays as it is.
func (t Terms) CancelRefusedEvent(ref *documentv1.Ref, at time.Time, requestID string, why fault.Reason) event.Event {
	m := &documentv1.CancelRefused{Ref: ref, At: timestamppb.New(at), RequestId: requestID, Reason: event.Reason(why)}
	return t.Topics.CancelRefused.About(ref.Seller, ref.No, at, m, ids(ref.WarehouseNo, requestID)...)
}

// CancelUnknownEvent says that there was no answer that can be trusted.
func (t Terms) CancelUnknownEvent(ref *documentv1.Ref, at time.Time, requestID string, why fault.Reason) event.Event {
	m := &documentv1.CancelUnknown{Ref: ref, At: timestamppb.New(at), RequestId: requestID, Reason: event.Reason(why)}
	return t.Topics.CancelUnknown.About(ref.Seller, ref.No, at, m, ids(requestID, why.Code)...)
}

// ids are the discriminators that are known.
func ids(list ...string) (known []string) {
	for _, id := range list {
		if id != "" {
			known = append(known, id)
		}
	}
	return known
}

// CancelTwice is the reason that another request is not answered yet.
func (t Terms) CancelTwice(other string) fault.Reason {
	return fault.Reason{
		Code: "cancel.open", Field: "request_id",
		ZH: "另一个取消请求 " + other + " 尚未有结果", EN: "another request to cancel, " + other + ", has no answer yet",
	}
}

// CancelNothing is the reason that no such document is known.
func (t Terms) CancelNothing(no string) fault.Reason {
	return fault.Reason{
		Code: "cancel.nothing", Field: t.Field,
		ZH: "没有收到" + t.NoZH + " " + no + " 的" + t.ZH + "；如果之后收到，不会推送",
		EN: "no " + t.EN + " " + no + " is known; if it arrives later, it is not sent",
	}
}

// CancelUnsent is the reason that the document is being sent, or may have been.
func (t Terms) CancelUnsent(no string) fault.Reason {
	return fault.Reason{
		Code: "cancel.unsent", Field: t.Field,
		ZH: t.ZH + " " + no + " 的推送尚无结果，无法取消；有结果后会再次通知", EN: "whether " + t.EN + " " + no + " was sent is not known yet, so it cannot be cancelled; the outcome is published when it is",
	}
}

// CancelPending is the reason that the warehouse has not decided.
func (t Terms) CancelPending(number, code, text string) fault.Reason {
	return fault.Reason{
		Code: "cancel.pending", RemoteCode: code, RemoteText: text,
		ZH: "仓库单据 " + number + " 的取消尚无结果；有结果后会再次通知", EN: "the warehouse has not decided about document " + number + "; its decision is published when it has",
	}
}

// CancelRefused is the reason that the warehouse refused.
func (t Terms) CancelRefused(number, code, text string) fault.Reason {
	return fault.Reason{
		Code: "cancel.refused", RemoteCode: code, RemoteText: text,
		ZH: "仓库拒绝取消单据 " + number + "，单据继续执行。" + t.RefusedZH, EN: "the warehouse refused to cancel document " + number + "; it stays as it is. " + t.RefusedEN,
	}
}

// CancelTooLate is the reason that the document is further than a request can reach.
func (t Terms) CancelTooLate(number string, status documentv1.Status) fault.Reason {
	return fault.Reason{
		Code: "cancel.late", RemoteText: status.String(),
		ZH: "仓库单据 " + number + " 已执行，不能取消。" + t.RefusedZH, EN: "document " + number + " is carried out and can no longer be cancelled. " + t.RefusedEN,
	}
}

// CancelUnsupported is the reason that the warehouse's interface cancels no documents of the kind.
func (t Terms) CancelUnsupported() fault.Reason {
	return fault.Reason{
		Code: "cancel.unsupported",
		ZH:   "仓库接口不支持取消" + t.ZH + "：单据没有被取消，请在仓库后台取消并确认结果", EN: "the warehouse's interface cannot cancel a " + t.EN + ": it is not cancelled; cancel it at the warehouse",
	}
}
