package jdapi

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stockbridge/pkg/personal"
)

func TestTheEnvelopeIsOpened(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       string // the number inside, "lost", or the code of a refusal
	}{
		{"JD's spelling", `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":"ESL1"}}`, "ESL1"},
		{"the other spelling", `{"jingdong_eclp_order_addOrder_response":{"code":"0","eclpSoNo":"ESL1"}}`, "ESL1"},
		{"another name", `{"x_responce":{"code":"0","eclpSoNo":"ESL1"}}`, "ESL1"},
		{"other capitals", `{"jingdong_eclp_order_addorder_response":{"code":"0","eclpSoNo":"ESL1"}}`, "ESL1"},
		{"without the prefix", `{"eclp_order_addOrder_responce":{"code":"0","eclpSoNo":"ESL1"}}`, "ESL1"},
		{"another method's name", `{"jingdong_eclp_order_queryOrder_responce":{"code":"0","eclpSoNo":"ESL1"}}`, "lost"},
		{"another method's name, without the prefix", `{"eclp_order_queryOrder_response":{"code":"0","eclpSoNo":"ESL1"}}`, "lost"},
		{"a method's name that ends like ours", `{"jingdong_eclp_order_asynaddOrder_responce":{"code":"0","eclpSoNo":"ESL1"}}`, "lost"},
		{"a name of another family", `{"jingdong_clps_addSoOrder_responce":{"code":"0","eclpSoNo":"ESL1"}}`, "lost"},
		{"20 characters", `{"jingdong_eclp_order_addOrder_responce":{"eclpSoNo":"ESL00000025552990157"}}`, "ESL00000025552990157"},
		{"a number that is too long", `{"jingdong_eclp_order_addOrder_responce":{"eclpSoNo":"ESL` + strings.Repeat("1", 100_000) + `"}}`, "lost"},
		{"control characters in the number", `{"jingdong_eclp_order_addOrder_responce":{"eclpSoNo":"ESL1\u001b[2J\n2"}}`, "lost"},
		{"a comma in the number", `{"jingdong_eclp_order_addOrder_responce":{"eclpSoNo":"ESL1,ESL2"}}`, "lost"},
		{"a sentence for a number", `{"jingdong_eclp_order_addOrder_responce":{"eclpSoNo":"下单成功"}}`, "lost"},
		{"a truth for a number", `{"jingdong_eclp_order_addOrder_responce":{"eclpSoNo":true}}`, "lost"},
		{"more keys beside it", `{"request_id":7,"jingdong_eclp_order_addOrder_responce":{"code":0,"eclpSoNo":"ESL1","x":{}}}`, "ESL1"},
		{"no code", `{"jingdong_eclp_order_addOrder_responce":{"eclpSoNo":"ESL1"}}`, "ESL1"},
		{"a number as number", `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":4398046641940}}`, "4398046641940"},
		{"a list of one", `{"jingdong_eclp_order_addOrder_responce":{"code":["0"],"eclpSoNo":["ESL1"]}}`, "ESL1"},
		{"a refusal that is null", `{"error_response":null,"jingdong_eclp_order_addOrder_responce":{"eclpSoNo":"ESL1"}}`, "ESL1"},
		{"a refusal", `{"error_response":{"code":"15","zh_desc":"不存在的方法名","en_desc":"Invalid Method"}}`, "15"},
		{"a refusal by number", `{"error_response":{"code":15,"zh_desc":"不存在的方法名"}}`, "15"},
		{"a refusal beside an answer", `{"jingdong_eclp_order_addOrder_responce":{"eclpSoNo":"ESL1"},"error_response":{"code":"10500","zh_desc":"x"}}`, "10500"},
		{"a refusal that says nothing", `{"error_response":{}}`, "lost"},
		{"a refusal in words of its own", `{"error_response":"no"}`, "lost"},
		{"another code in the envelope", `{"jingdong_eclp_order_addOrder_responce":{"code":"1","eclpSoNo":"ESL1"}}`, "lost"},
		{"no number", `{"jingdong_eclp_order_addOrder_responce":{"code":"0"}}`, "lost"},
		{"null number", `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":null}}`, "lost"},
		{"an object for a number", `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":{}}}`, "lost"},
		{"two numbers", `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":["ESL1","ESL2"]}}`, "lost"},
		{"null inside", `{"jingdong_eclp_order_addOrder_responce":null}`, "lost"},
		{"two envelopes", `{"a_responce":{"eclpSoNo":"ESL1"},"b_responce":{"eclpSoNo":"ESL2"}}`, "lost"},
		{"no envelope", `{"code":"0"}`, "lost"},
		{"HTML", `<html>502 Bad Gateway</html>`, "lost"},
		{"nothing", ``, "lost"},
		{"cut off", `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":"ESL1"}`, "lost"},
		{"more behind it", `{"jingdong_eclp_order_addOrder_responce":{"eclpSoNo":"ESL1"}}{}`, "lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, jd := dial(t)
			jd.says(func(string) string { return c.body })
			got, err := client.AddOrder(t.Context(), AddOrder{IsvUUID: "A-1"})
			var no *Error
			switch {
			case errors.As(err, &no):
				got = no.Code
			case errors.Is(err, ErrLost):
				got = "lost"
			case err != nil:
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("got %q (%v), want %q", got, err, c.want)
			}
		})
	}
}

func TestScalarsAreReadHoweverTheyAreTyped(t *testing.T) {
	type row struct {
		Text Text       `json:"text"`
		List List[Text] `json:"list"`
	}
	for body, want := range map[string]row{
		`{}`:                          {},
		`{"text":null,"list":null}`:   {},
		`{"text":[],"list":[]}`:       {"", List[Text]{}},
		`{"text":" a "}`:              {Text: "a"},
		`{"text":1.50}`:               {Text: "1.50"},
		`{"text":true,"list":""}`:     {Text: "true"},
		`{"text":["a"],"list":["b"]}`: {"a", List[Text]{"b"}},
		`{"text":[null]}`:             {},
		`{"list":[1,null,"2",[3]]}`:   {List: List[Text]{"1", "2", "3"}},
	} {
		var got row
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
	var objects List[struct {
		A Text `json:"a"`
	}]
	if err := json.Unmarshal([]byte(`{"a":1}`), &objects); err != nil || len(objects) != 1 || objects[0].A != "1" {
		t.Errorf("an object for a list: %v %v", objects, err)
	}
	for _, body := range []string{`{}`, `[[1]]`, `[1,2]`, `[{}]`} {
		var text Text
		if err := json.Unmarshal([]byte(body), &text); err == nil {
			t.Errorf("%s was read as %q", body, text)
		}
	}
}

func TestTextsAreReadAsNumbersTimesAndLists(t *testing.T) {
	for text, want := range map[Text]int64{"2": 2, "2.00": 2, "0": 0, "-3": -3} {
		if got, ok := text.Int(); !ok || got != want {
			t.Errorf("%q is %d, %v", text, got, ok)
		}
	}
	for _, text := range []Text{"", "2.5", "x", "1e3", "99999999999999999999"} {
		if got, ok := text.Int(); ok {
			t.Errorf("%q is %d", text, got)
		}
	}
	for text, want := range map[Text]string{"1.25": "1.25", "0": "0", "1.25E-1": "0.125", "-0.5": "-0.5", "": "", "kg": "", "1.": "", "1e999": "", "0x10": "", "Infinity": ""} {
		if got := text.Decimal(); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	want := time.Date(2021, 6, 18, 1, 30, 0, 0, time.UTC)
	for _, text := range []Text{"2021-06-18 09:30:00", "2021-06-18 09:30:00.0", "2021-06-18T09:30:00+08:00", "1623979800000"} {
		if got := text.Time(); !got.Equal(want) {
			t.Errorf("%q is %v", text, got)
		}
	}
	for _, text := range []Text{"", "yesterday", "10018"} {
		if got := text.Time(); !got.IsZero() {
			t.Errorf("%q is %v", text, got)
		}
	}
	if diff := cmp.Diff([]string{"VA1", "VA2"}, Text(" VA1,,VA2 ,VA1").List()); diff != "" {
		t.Error(diff)
	}
}

// Whatever JD answers, the result is a refusal, a lost answer, or a document with a number: never a success without one,
// and no error shows more than it may.
func FuzzDecode(f *testing.F) {
	for _, body := range []string{
		`{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":"ESL4398046641940"}}`,
		`{"error_response":{"code":"15","zh_desc":"不存在的方法名","en_desc":"Invalid Method"}}`,
		`{"a_response":{"queryorder_result":[{"eclpSoNo":["ESL1"],"orderDetailList":{"quantity":2.0},"orderStatusList":null}]}}`,
		`{"error_response":{"code":8,"zh_desc":[" "]}}`, `<html>`, ``,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		inner, err := openEnvelope(MethodAddOrder, body)
		var no *Error
		switch {
		case errors.As(err, &no):
			no.sanitize(personal.Data{}, NewSecret("s3cr3t"), NewSecret("t0ken"))
			if _, known := codes[no.Code]; no.Before && !known {
				t.Errorf("code %q proves something", no.Code)
			}
			if text := no.Error(); len(text) > 10*maxErrorText || strings.ContainsAny(text, "\n\r\x00") || strings.Contains(text, "s3cr3t") {
				t.Errorf("unfit to be shown: %q", text)
			}
			return
		case err != nil:
			if !errors.Is(err, ErrLost) {
				t.Errorf("error %v", err)
			}
			return
		}
		var one struct {
			Order  List[Order]      `json:"queryorder_result"`
			Rows   List[ExtOrder]   `json:"rows"`
			Packs  List[OrderPacks] `json:"queryorderpacks_result"`
			Number Text             `json:"eclpSoNo"`
		}
		if json.Unmarshal(inner, &one) != nil {
			return
		}
		for _, o := range one.Order {
			o.WayBill.List()
			for _, s := range o.Statuses {
				s.OperateTime.Time()
			}
			for _, l := range o.Lines {
				l.Quantity.Int()
			}
			for _, p := range o.Packages {
				if d := p.PackWeight.Decimal(); d != "" && strings.Trim(d, "-0123456789.") != "" {
					t.Errorf("weight %q", d)
				}
			}
		}
	})
}
