package jd

import (
	"context"
	"errors"

	"stockbridge/pkg/warehouse/callmetrics"
	"stockbridge/pkg/warehouse/jd/jdaccount"
	"stockbridge/pkg/warehouse/jd/jdapi"
	sellerv1 "stockbridge/proto/seller/v1"
)

// watch returns what counts and traces each request; nil without metrics.
func (o Options) watch(account *sellerv1.Account) func(context.Context, string) (context.Context, func(error)) {
	if o.Metrics == nil {
		return nil
	}
	calls := o.Metrics.Account("jd", jdaccount.Kind{}.Capabilities(account).Quota.Application, o.Class)
	return func(ctx context.Context, method string) (context.Context, func(error)) {
		ctx, end := calls.Start(ctx, method)
		return ctx, func(err error) { end(outcomeOf(err)) }
	}
}

// outcomeEnd is the text that ends a flow: for us an answer, for JD a failed call.
const outcomeEnd = "end"

// outcomeOf is the outcome of a request: "ok", "end", the class of JD's refusal, or how it was lost.
func outcomeOf(err error) callmetrics.Outcome {
	var no *jdapi.Error
	if errors.As(err, &no) {
		o := callmetrics.Outcome{Name: no.Class.String(), Failed: true, TooMany: no.Class == jdapi.ClassQuota, Code: no.Code}
		if jdapi.EndsFlow(err) {
			o.Name, o.Failed = outcomeEnd, false
		}
		return o
	}
	switch {
	case err == nil:
		return callmetrics.Outcome{Name: "ok"}
	case errors.Is(err, jdapi.ErrNotSent):
		return callmetrics.Outcome{Name: "not_sent", Failed: true}
	default:
		return callmetrics.Outcome{Name: "lost", Failed: true}
	}
}
