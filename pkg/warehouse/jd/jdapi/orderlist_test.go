package jdapi

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// The request as it is sent, and which answers are lists: only those with the inner code "1".
func TestOrdersAreListedByStatus(t *testing.T) {
	from := time.Date(2021, 6, 18, 1, 30, 0, 0, time.UTC)
	q := OrderListQuery{DeptNo: "EBU1", Status: "10014", From: from, To: from.Add(time.Hour), Page: 2, PageSize: 100}
	for _, c := range []struct {
		name, result string
		want         []string
		lost         bool
		code         string
	}{
		{"a list", `{"resultCode":"1","errMsg":null,"soNoList":["ESL1",null,"ESL2"]}`, []string{"ESL1", "ESL2"}, false, ""},
		{"JD's habits", `[{"resultCode":1,"soNoList":[["ESL1"]]}]`, []string{"ESL1"}, false, ""},
		{"an empty list", `{"resultCode":"1","soNoList":[]}`, nil, false, ""},
		{"a refusal inside", `{"resultCode":"2","errMsg":"事业部不存在","soNoList":[]}`, nil, false, "2"},
		{"nothing inside", `{}`, nil, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, jd := dial(t)
			client.ReadOnly = true
			var sent strings.Builder
			jd.does(func(w http.ResponseWriter, r *http.Request) {
				record(&sent, r)
				say(w, `{"jingdong_eclp_order_queryOrderListByStatus_responce":{"code":"0","orderQueryResult":`+c.result+`}}`)
			})
			got, err := client.QueryOrderListByStatus(t.Context(), q)
			var no *Error
			switch {
			case c.lost:
				if !errors.Is(err, ErrLost) {
					t.Errorf("%v", err)
				}
			case c.code != "":
				if !errors.As(err, &no) || no.Code != c.code || no.Class != ClassBusiness {
					t.Errorf("%v", err)
				}
			case err != nil || !slices.Equal(got, c.want):
				t.Errorf("%v, %v", got, err)
			}
			for _, want := range []string{`"deptNo":"EBU1"`, `"soStatus":"10014"`, `"pageNo":2`, `"pageSize":100`, `"startDate":"2021-06-18 09:30:00"`, `"endDate":"2021-06-18 10:30:00"`} {
				if !strings.Contains(sent.String(), want) {
					t.Errorf("the request lacks %s:\n%s", want, sent.String())
				}
			}
		})
	}
}
