package jd

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"stockbridge/pkg/warehouse/jd/jdapi"
)

// listPage is the page size of a list. JD's limit is unknown.
const listPage = 100

// lifecycle is the sequence in which statuses are queried, the one that a document goes through: a document that changes
// its status between two calls is listed at the later status and not missed.
var lifecycle = []string{
	"10009", "10010", "100130", "100131", "100132", "10050", "10051", "10014", "10015", "10016", "10017", "10018", "10019", "10020",
	"10032", "10054", "10033", "10034", "10031", "10035", "10036", "10037", "10038", "10027", "10029", "10028",
}

// List lists the department's documents status by status. JD has no other list of all documents: queryOrderList may
// return only those that JD created itself (docs/jd-api.md, Order look-up). A document at a status that is not in
// lifecycle is missed.
func (c orders) List(ctx context.Context, from, to time.Time, page string) (nos []string, next string, err error) {
	at, n := 0, 1
	if page != "" {
		status, number, ok := strings.Cut(page, "/")
		at, err = strconv.Atoi(status)
		if ok && err == nil {
			n, err = strconv.Atoi(number)
		}
		if !ok || err != nil || at < 0 || at >= len(lifecycle) || n < 1 {
			return nil, "", fmt.Errorf("list orders: no page %q", page)
		}
	}
	nos, err = c.w.api.QueryOrderListByStatus(ctx, jdapi.OrderListQuery{
		DeptNo: c.w.account.Department, Status: lifecycle[at], From: from, To: to, Page: n, PageSize: listPage,
	})
	if says(err, noSuchOrder) {
		nos, err = nil, nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("list orders: %w", c.w.readError(err))
	}
	switch {
	case len(nos) >= listPage:
		return nos, fmt.Sprintf("%d/%d", at, n+1), nil
	case at+1 < len(lifecycle):
		return nos, fmt.Sprintf("%d/1", at+1), nil
	default:
		return nos, "", nil
	}
}
