package jdsandbox_test

import (
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
)

var beijing = time.FixedZone("", 8*60*60)

// hostClock stands still until it is moved.
type hostClock struct {
	mu  sync.Mutex
	now time.Time
}

func newHostClock() *hostClock {
	return &hostClock{now: time.Date(2021, 6, 18, 9, 30, 0, 0, beijing)}
}

func (c *hostClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *hostClock) Move(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// sandbox is a JD on a real port with a clock that stands still, and a client with a signature of its own.
type sandbox struct {
	*jdsandbox.JD
	t     testing.TB
	url   string
	clock *hostClock
	cfg   jdsandbox.Config
}

func start(t testing.TB, change ...func(*jdsandbox.Config)) *sandbox {
	t.Helper()
	clock := newHostClock()
	cfg := jdsandbox.Config{Now: clock.Now}
	for _, f := range change {
		f(&cfg)
	}
	jd, err := jdsandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(jd)
	t.Cleanup(func() {
		jd.Close() // first, so that waiting calls end
		srv.Close()
	})
	return &sandbox{JD: jd, t: t, url: srv.URL + "/routerjson", clock: clock, cfg: cfg}
}

func knobs(set func(*jdsandbox.Knobs)) func(*jdsandbox.Config) {
	return func(c *jdsandbox.Config) { set(&c.Knobs) }
}

func (s *sandbox) set(set func(*jdsandbox.Knobs)) {
	s.t.Helper()
	if err := s.SetKnobs(set); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sandbox) fault(f jdsandbox.Fault) string {
	s.t.Helper()
	id, err := s.AddFault(f)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// system are the parameters of a correct call without sign.
func (s *sandbox) system(method string) map[string]string {
	return map[string]string{
		"method": "jingdong." + method, "app_key": jdsandbox.DefaultAppKey, "access_token": jdsandbox.DefaultToken,
		"timestamp": s.clock.Now().In(beijing).Format("2006-01-02 15:04:05"), "v": "2.0",
	}
}

func sign(secret string, params map[string]string) string {
	text := secret
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if name != "sign" {
			text += name + params[name]
		}
	}
	return strings.ToUpper(fmt.Sprintf("%x", md5.Sum([]byte(text+secret))))
}

func form(params map[string]string) url.Values {
	v := url.Values{}
	for name, value := range params {
		v.Set(name, value)
	}
	return v
}

type object = map[string]any

// refusal is an error_response.
type refusal struct{ code, zh string }

func (r refusal) Error() string { return r.code + " " + r.zh }

// post sends all parameters as a form and returns the body.
func (s *sandbox) post(params map[string]string) (*http.Response, string, error) {
	res, err := http.PostForm(s.url, form(params))
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// call makes a correct call and returns the content of the envelope.
func (s *sandbox) call(method string, business any) (object, error) {
	raw, err := json.Marshal(business)
	if err != nil {
		s.t.Fatal(err)
	}
	params := s.system(method)
	params["360buy_param_json"] = string(raw)
	params["sign"] = sign(jdsandbox.DefaultAppSecret, params)
	res, body, err := s.post(params)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	return s.open(method, body)
}

// open opens the envelope.
func (s *sandbox) open(method, body string) (object, error) {
	var envelope map[string]object
	if err := json.Unmarshal([]byte(body), &envelope); err != nil {
		return nil, fmt.Errorf("answer %.40q: %w", body, err)
	}
	if len(envelope) != 1 {
		s.t.Errorf("envelope with %d keys: %s", len(envelope), body)
	}
	if no, refused := envelope["error_response"]; refused {
		return nil, refusal{no["code"].(string), no["zh_desc"].(string)}
	}
	answer, found := envelope["jingdong_"+strings.ReplaceAll(method, ".", "_")+"_responce"]
	if !found || answer["code"] != "0" {
		s.t.Errorf("not an envelope of %s: %s", method, body)
	}
	return answer, nil
}

const dept = "EBU0000000000001"

// anOrder is the set of parameters that production ERPs send, with two lines of three and one pieces.
func anOrder(number string) object {
	return object{
		"isvUUID": number, "isvSource": "ISV0000000000001", "shopNo": "ESP0020000000001", "departmentNo": dept,
		"warehouseNo": "110000001", "shipperNo": "CYS0000010", "salesPlatformOrderNo": "SP-" + number, "salePlatformSource": "6",
		"salesPlatformCreateTime": "2021-06-18 09:00:00", "consigneeName": "张三", "consigneeMobile": "13800000000",
		"addressProvince": "北京", "addressCity": "北京市", "addressCounty": "大兴区", "consigneeAddress": "北京北京市大兴区 某街1号",
		"orderMark": strings.Repeat("0", 50), "goodsNo": "EMG1,EMG2", "quantity": "3,1", "orderLine": "1,2", "price": "9.90,100.00",
	}
}

func with(o object, changes object) object {
	o = maps.Clone(o)
	for k, v := range changes {
		if v == nil {
			delete(o, k)
		} else {
			o[k] = v
		}
	}
	return o
}

const addOrder = "eclp.order.addOrder"

func (s *sandbox) add(o object) string {
	s.t.Helper()
	answer, err := s.call(addOrder, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer["eclpSoNo"].(string)
}

func (s *sandbox) advance(by time.Duration) {
	s.t.Helper()
	if err := s.Advance(by); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sandbox) document(no string) jdsandbox.Document {
	s.t.Helper()
	d, found := s.Document(no)
	if !found {
		s.t.Fatalf("no document %s", no)
	}
	return d
}

// query is queryOrder's result.
func (s *sandbox) query(no string) object {
	s.t.Helper()
	answer, err := s.call("eclp.order.queryOrder", object{"eclpSoNo": no})
	if err != nil {
		s.t.Fatal(err)
	}
	return answer["queryorder_result"].(object)
}

// find is ext.queryOrder's rows.
func (s *sandbox) find(business object) []object {
	s.t.Helper()
	answer, err := s.call("eclp.order.ext.queryOrder", business)
	if err != nil {
		s.t.Fatal(err)
	}
	return rows(answer["queryorder_result"])
}

func rows(v any) []object {
	var list []object
	for _, row := range v.([]any) {
		list = append(list, row.(object))
	}
	return list
}

func refusedWith(t *testing.T, err error, code string) {
	t.Helper()
	var no refusal
	if !errors.As(err, &no) || no.code != code {
		t.Errorf("got %v, want code %s", err, code)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// say puts blanks between its arguments.
func say(v ...any) string { return strings.TrimSuffix(fmt.Sprintln(v...), "\n") }
