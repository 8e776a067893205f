package jdsandbox_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"net/http/httptest"

	"stockbridge/pkg/jdsandbox"
)

// TestFaults sends one order into each fault and checks what the caller receives and what JD has.
func TestFaults(t *testing.T) {
	for _, row := range []struct {
		name  string
		fault jdsandbox.Fault
		heard string // part of the caller's error
		held  int
		log   string // answer, done, code
		lost  int64
	}{
		{"answer lost", jdsandbox.Fault{Kind: jdsandbox.LoseAnswer}, "EOF", 1, "lose_answer true ", 1},
		{"dropped", jdsandbox.Fault{Kind: jdsandbox.Drop}, "EOF", 0, "drop false ", 0},
		{"65 before", jdsandbox.Fault{Kind: jdsandbox.Error, Code: "65"}, "65 平台连接后端服务超时", 0, "refused false 65", 0},
		{"65 after", jdsandbox.Fault{Kind: jdsandbox.Error, Code: "65", Work: jdsandbox.WorkDone}, "65 ", 1, "refused true 65", 1},
		{"43", jdsandbox.Fault{Kind: jdsandbox.Error, Code: "43"}, "43 系统处理错误", 0, "refused false 43", 0},
		{"a business refusal", jdsandbox.Fault{Kind: jdsandbox.Error, ZH: "商品不存在"}, "5001 商品不存在", 0, "refused false 5001", 0},
		{"502", jdsandbox.Fault{Kind: jdsandbox.HTTP, Status: 502}, "502 Bad Gateway", 0, "http false ", 0},
		{"503 after", jdsandbox.Fault{Kind: jdsandbox.HTTP, Work: jdsandbox.WorkDone}, "503 ", 1, "http true ", 1},
		{"a page", jdsandbox.Fault{Kind: jdsandbox.HTML, Work: jdsandbox.WorkDone}, `"<html>`, 1, "html true ", 1},
		{"nothing", jdsandbox.Fault{Kind: jdsandbox.Empty}, `answer ""`, 0, "empty false ", 0},
		{"half", jdsandbox.Fault{Kind: jdsandbox.Truncated}, "unexpected end of JSON", 1, "truncated true ", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := start(t)
			row.fault.Count, row.fault.Methods = 1, []string{addOrder}
			id := s.fault(row.fault)
			_, err := s.call(addOrder, anOrder("A-1"))
			if err == nil || !strings.Contains(err.Error(), row.heard) {
				t.Errorf("heard %v, want %q", err, row.heard)
			}
			equal(t, "held", len(s.Documents("A-1")), row.held)
			c := s.Calls()[0]
			equal(t, "log", fmt.Sprintf("%s %t %s", c.Answer, c.Done, c.Code), row.log)
			equal(t, "fault", c.Fault, id)
			equal(t, "lost", s.Counters().LostAnswers, row.lost)
			equal(t, "faults counted", s.Counters().Faults[row.fault.Kind], 1)
			s.add(anOrder("A-2")) // it is over
			equal(t, "fired", s.Knobs().Faults[0].Fired, 1)
		})
	}
}

func TestAFaultChoosesItsCalls(t *testing.T) {
	s := start(t)
	s.fault(jdsandbox.Fault{Kind: jdsandbox.Error, ZH: "商品[EMG9]不存在", Goods: []string{"EMG9"}, Chance: 1})
	id := s.fault(jdsandbox.Fault{Kind: jdsandbox.Error, Code: "67", Orders: []string{"A-2"}, Methods: []string{"jingdong.eclp.order.queryOrder"}, Chance: 1})
	_, err := s.call(addOrder, with(anOrder("A-1"), object{"goodsNo": "EMG1,EMG9"}))
	refusedWith(t, err, "5001")
	first, second := s.add(anOrder("A-1")), s.add(anOrder("A-2"))
	s.query(first)
	_, err = s.call("eclp.order.queryOrder", object{"eclpSoNo": second}) // selected by its isvUUID
	refusedWith(t, err, "67")
	s.find(object{"isvUUID": "A-2"})
	if !s.RemoveFault(id) || s.RemoveFault(id) {
		t.Error("the fault was not removed once")
	}
	s.query(second)
	s.ClearFaults()
	s.add(with(anOrder("A-3"), object{"goodsNo": "EMG1,EMG9"}))
}

func TestFaultsNeedASignedCall(t *testing.T) {
	s := start(t)
	s.fault(jdsandbox.Fault{Kind: jdsandbox.Drop, Count: 1})
	p := s.system(addOrder)
	p["sign"] = "X"
	_, body, err := s.post(p)
	if err != nil || !strings.Contains(body, `"12"`) {
		t.Errorf("got %s, %v", body, err)
	}
	equal(t, "fired", s.Knobs().Faults[0].Fired, 0)
}

// TestASlowCallWorksAfterItsCallerHasGone: a slow call creates the order after its caller has gone and asked.
func TestASlowCallWorksAfterItsCallerHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		jd, err := jdsandbox.New(jdsandbox.Config{Knobs: jdsandbox.Knobs{
			Latency: jdsandbox.Range{Min: jdsandbox.Duration(time.Second)},
			Faults:  []jdsandbox.Fault{{Kind: jdsandbox.Slow, Work: jdsandbox.WorkLate, Delay: jdsandbox.Duration(time.Minute), Count: 1}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		clock := newHostClock()
		clock.now = time.Now()
		s := &sandbox{JD: jd, t: t, clock: clock}
		began := time.Now()
		go func() {
			p := s.system(addOrder)
			p["360buy_param_json"] = strings.ReplaceAll(`{"isvUUID":"A-1","isvSource":"I","shopNo":"S","departmentNo":"D","salePlatformSource":6,"consigneeName":"n",
				"consigneePhone":"1","consigneeAddress":"a","orderMark":"_","goodsNo":"G","quantity":1}`, "_", strings.Repeat("0", 50))
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			r := httptest.NewRequest("GET", "/routerjson?"+form(p).Encode(), nil)
			jd.ServeHTTP(httptest.NewRecorder(), r)
		}()
		time.Sleep(60 * time.Second)
		synctest.Wait()
		equal(t, "held while it is slow", len(jd.Documents()), 0)
		time.Sleep(time.Second)
		synctest.Wait()
		equal(t, "held late", len(jd.Documents()), 1)
		equal(t, "took", time.Since(began), 61*time.Second)
	})
}
