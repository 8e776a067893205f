package jdapi

import (
	"context"
	"fmt"
	"time"
)

// MethodQueryOrderListByStatus lists documents (docs/jd-api.md, Order look-up).
const MethodQueryOrderListByStatus = "jingdong.eclp.order.queryOrderListByStatus"

// OrderListQuery asks for a page of the documents of a department that stand at a status. From and To are JD's to judge:
// whether they mean the making of a document or its last change is not known (docs/jd-api.md, Order look-up). Page counts from 1.
type OrderListQuery struct {
	DeptNo, Status string
	From, To       time.Time
	Page, PageSize int
}

// QueryOrderListByStatus tells JD's numbers (ESL…). An answer without the inner code "1" is no list (docs/jd-api.md, Envelopes): a refusal of
// ClassBusiness when JD says why, else ErrLost.
func (c *Client) QueryOrderListByStatus(ctx context.Context, q OrderListQuery) ([]string, error) {
	request := struct {
		DeptNo    string `json:"deptNo"`
		SoStatus  string `json:"soStatus"`
		PageNo    int    `json:"pageNo"`
		PageSize  int    `json:"pageSize"`
		StartDate string `json:"startDate"`
		EndDate   string `json:"endDate"`
	}{q.DeptNo, q.Status, q.Page, q.PageSize, stamp(q.From), stamp(q.To)}
	var answer struct {
		Result List[struct {
			ResultCode Text       `json:"resultCode"`
			ErrMsg     Text       `json:"errMsg"`
			SoNos      List[Text] `json:"soNoList"`
		}] `json:"orderQueryResult"`
	}
	if err := c.call(ctx, MethodQueryOrderListByStatus, request, &answer); err != nil {
		return nil, err
	}
	if len(answer.Result) == 0 || answer.Result[0].ResultCode == "" {
		return nil, fmt.Errorf("jd %s: %w: no result inside", shortOf(MethodQueryOrderListByStatus), ErrLost)
	}
	r := answer.Result[0]
	if r.ResultCode != "1" {
		return nil, fmt.Errorf("jd %s: %w", shortOf(MethodQueryOrderListByStatus), complaint(r.ResultCode, r.ErrMsg))
	}
	nos := make([]string, 0, len(r.SoNos))
	for _, no := range r.SoNos {
		if no != "" {
			nos = append(nos, string(no))
		}
	}
	return nos, nil
}
