package jdapi

import (
	"context"
	"fmt"
	"time"
)

// MethodQueryOrderListByStatus lists documents (docs/jd-api.md, Order look-up).
const MethodQueryOrderListByStatus = "jingdong.eclp.order.queryOrderListByStatus"

// OrderListQuery asks for a page of a department's documents at a status. JD decides what From and To mean: the creation
// of a document or its last change (unknown). Page counts from 1.
type OrderListQuery struct {
	DeptNo, Status string
	From, To       time.Time
	Page, PageSize int
}

// QueryOrderListByStatus returns JD's numbers (ESL…). An answer without the inner code "1" is not a list: it is a refusal
// of ClassBusiness if JD says why, otherwise ErrLost.
func (c *Client) QueryOrderListByStatus(ctx context.Context, q OrderListQuery) ([]string, error) {
	request := struct {
		DeptNo    string `json:"deptNo"`
		SoStatus  string `json:"soStatus"`
		PageNo    int    `json:"pageNo"`
		PageSize  int    `json:"pageSize"`
		StartDate string `json:"startDate"`
		EndDate   string `json:"endDate"`
	}{q.DeptNo, q.Status, q.Page, q.PageSize, formatTime(q.From), formatTime(q.To)}
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
		return nil, fmt.Errorf("jd %s: %w", shortOf(MethodQueryOrderListByStatus), innerError(r.ResultCode, r.ErrMsg))
	}
	nos := make([]string, 0, len(r.SoNos))
	for _, no := range r.SoNos {
		if no != "" {
			nos = append(nos, string(no))
		}
	}
	return nos, nil
}
