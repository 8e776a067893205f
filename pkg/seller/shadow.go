package seller

import (
	"fmt"
	"slices"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse/kinds"
	sellerv1 "stockbridge/proto/seller/v1"
)

// ShadowKept is how long after the switch-over a set-up keeps its shadow: as long as events and the ledger remember
// orders that somebody may publish again.
const ShadowKept = 90 * 24 * time.Hour

// Shadows reports whether an order belongs to the ERP's own program, which sends it: it was audited, or published,
// before the switch-over. That does not change afterwards, however late the order comes.
//
// # Why
//
// The switch-over is a moment in the set-up and not the moment at which somebody changes the set-up: the ERP's
// program sent what was in the stream or dead-lettered at that time, and workers that learn of the change one after
// the other would disagree about what comes in between. Both clocks have to agree that an order is ours, because the
// opposite mistake ships it twice.
func (s *Seller) Shadows(auditedAt, publishedAt time.Time) bool {
	return s.Setup.Shadow != nil && (s.until.IsZero() || auditedAt.Before(s.until) || publishedAt.Before(s.until))
}

// InShadow reports whether the switch-over is still to come: until then nothing may be written at the warehouse for
// s.
func (s *Seller) InShadow(now time.Time) bool {
	return s.Setup.Shadow != nil && (s.until.IsZero() || now.Before(s.until))
}

// ShadowUntil is the switch-over, zero when there is none.
func (s *Seller) ShadowUntil() time.Time { return s.until }

// Shadowed is the error for a write at the warehouse for s while it is in shadow; nil when it is not.
func (s *Seller) Shadowed(now time.Time) error {
	if !s.InShadow(now) {
		return nil
	}
	return fault.RetryAfter(shadowRetryAfter, fault.Reason{
		Code: "seller.shadow", Field: "seller",
		ZH: fmt.Sprintf("商家 %s 处于影子模式，不会向仓库发送任何单据", s.Name()),
		EN: fmt.Sprintf("seller %s is in shadow mode: nothing is sent to its warehouses", s.Name()),
	})
}

// shadowRetryAfter is the delay where the set-ups or clocks of two replicas disagree for a moment.
const shadowRetryAfter = 11 * time.Second

// shadowUntil is zero for none.
func shadowUntil(setup *sellerv1.Setup) (time.Time, error) {
	if setup.GetShadow().GetUntil() == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, setup.Shadow.Until)
}

// switchOverFaults finds what a change of a set-up would do to orders in shadow: leaving it without a moment of
// switch-over would send again what the ERP's program has sent, and so would a past moment, for orders that no worker
// has seen.
func switchOverFaults(was, now *sellerv1.Setup, at time.Time) Faults {
	if was.GetShadow() == nil {
		return nil
	}
	if now.GetShadow() != nil {
		return backdatedFaults(was, now, at)
	}
	if until, err := shadowUntil(was); err == nil && !until.IsZero() && at.Sub(until) > ShadowKept {
		return nil
	}
	return Faults{{
		Code: "setup.shadow", Field: "shadow",
		ZH: "不能直接删除 shadow：请把 shadow.until 设为切换时刻（此刻起的新订单由我们推送，之前的订单不会再推送），并保留 90 天",
		EN: "shadow cannot just be removed: set shadow.until to the moment of the switch-over (orders from then on are ours, earlier ones are never sent), and leave it there for 90 days",
	}}
}

// maxBackdate is how long after the ERP's program was stopped the switch-over may be set to that moment.
const maxBackdate = 15 * time.Minute

// backdatedFaults finds a switch-over that would make ours what belonged to the ERP's program.
func backdatedFaults(was, now *sellerv1.Setup, at time.Time) Faults {
	until, err := shadowUntil(now)
	if err != nil || until.IsZero() {
		return nil
	}
	theirs := at
	if before, err := shadowUntil(was); err == nil && !before.IsZero() && before.Before(at) {
		theirs = before
	}
	if !until.Before(theirs.Add(-maxBackdate)) {
		return nil
	}
	return Faults{{
		Code: "setup.shadow", Field: "shadow.until",
		ZH: "切换时刻早于现在（或早于已生效的切换时刻）：其后的订单可能已由 ERP 原程序推送，会重复发货；请检查时区，设为现在或之后的时刻",
		EN: "the switch-over lies in the past (or before the one in force): the ERP's own program may have sent orders since, and they would ship twice; check the zone, and set the present moment or a later one",
	}}
}

// shadowFaults checks a shadow without its predecessor.
func shadowFaults(setup *sellerv1.Setup, add func(code, field, zh, en string, args ...any)) {
	if setup.Shadow == nil {
		return
	}
	until, err := shadowUntil(setup)
	if err != nil {
		add("setup.value", "shadow.until", "应为带时区的时间，例如 2026-08-01T02:00:00+08:00", "want a time with its zone, like 2026-08-01T02:00:00+08:00")
	}
	if setup.Trial != nil && err == nil && until.IsZero() {
		add("setup.conflict", "trial", "影子模式不推送任何订单，不能同时试运行；请删除 trial，或设置 shadow.until",
			"in shadow no order goes, so none can go on trial: leave trial out, or set shadow.until")
	}
	ownOnly := func(a *sellerv1.Account) bool { return !kinds.Of(a).Capabilities(a).Shared }
	if slices.ContainsFunc(setup.Accounts, ownOnly) {
		add("setup.conflict", "shadow", "内存仓库没有其他程序推送的单据，无法使用影子模式", "nobody else sends to a warehouse in memory, so there is nothing to compare in shadow")
	}
}
