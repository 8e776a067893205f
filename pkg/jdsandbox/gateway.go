package jdsandbox

import (
	"bytes"
	"crypto/md5"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	methodPrefix = "jingdong."
	paramJSON    = "360buy_param_json"
	timeLayout   = "2006-01-02 15:04:05"
	// csharpLayout is what the C# SDK sends.
	csharpLayout = "2006-01-02 15:04:05.000-0700"
	// maxBody bounds a request; JD's limit is not published.
	maxBody   = 1 << 20
	maxParams = 200
)

// beijing is UTC+8 without daylight saving, so that no time zone data is needed.
var beijing = time.FixedZone("Asia/Shanghai", 8*60*60)

// call is a request that the gateway accepted, and its outcome.
type call struct {
	arrived time.Time
	app     *app
	token   Token
	method  string // without its prefix; "" until known
	version string
	fields  map[string]string
	// isvUUID is set for addOrder, eclpSoNo for calls about one document.
	isvUUID, eclpSoNo string
	// spPoOrderNo and poOrderNo are those of purchase orders.
	spPoOrderNo, poOrderNo string
	// numbers and goods are all those in the call, for faults to select by.
	numbers, goods []string
	// done: the service carried out the call.
	done bool
	// gone reports whether the caller has hung up.
	gone func() bool
}

// allows reports whether the token is valid for a department; "" is not checked.
func (c *call) allows(dept string) bool {
	return dept == "" || len(c.token.Departments) == 0 || slices.Contains(c.token.Departments, dept)
}

// route answers one call of the gateway.
func (jd *JD) route(w http.ResponseWriter, r *http.Request) {
	c := &call{arrived: jd.now(), gone: func() bool { return r.Context().Err() != nil }}
	params, no := readRequest(w, r)
	fate := mishap{work: true}
	if no == nil {
		no = jd.admit(c, params)
	}
	jd.mu.Lock()
	if no == nil {
		if d := jd.state.byNo[c.eclpSoNo]; d != nil {
			c.numbers = append(c.numbers, d.Number) // so that a fault can select by isvUUID
		}
		for _, poNo := range split(c.poOrderNo) {
			if p := jd.state.purchaseByNo[poNo]; p != nil {
				c.numbers = append(c.numbers, p.Number)
			}
		}
		fate = jd.mishapOf(c)
	}
	latency := jd.knobs.Latency.draw(jd.rnd)
	jd.mu.Unlock()

	jd.pause(latency + fate.before)
	var result any
	if no == nil && fate.work {
		result, no = jd.serve(c)
	}
	jd.pause(fate.after)
	if err := jd.journal.sync(); err != nil {
		jd.finish(c, fate, nil, "broken")
		http.Error(w, "sandbox: "+err.Error(), http.StatusInternalServerError)
		return
	}
	if fate.kind == Error {
		no = fate.refusal
	}
	jd.finish(c, fate, no, "")
	jd.write(w, c, fate, result, no)
}

// readRequest merges query and form, plain or multipart. A body of another type holds no parameters: some clients put all
// parameters into the query and also send the order as JSON. A repeated name keeps its first value, the form's before the
// query's.
func readRequest(w http.ResponseWriter, r *http.Request) (map[string]string, *Refusal) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, refuse(codeBadFormat, "")
	}
	params := map[string]string{}
	switch kind, details, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind {
	case "multipart/form-data":
		err = readParts(body, details["boundary"], params)
	case "", "application/x-www-form-urlencoded":
		err = readForm(string(body), params)
	}
	if err == nil {
		err = readForm(r.URL.RawQuery, params)
	}
	if err != nil {
		return nil, refuse(codeBadFormat, "")
	}
	return params, nil
}

// readParts adds the fields of a multipart form to params. Files are skipped.
func readParts(body []byte, boundary string, params map[string]string) error {
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return err
		}
		if part.FileName() != "" || part.FormName() == "" {
			continue
		}
		if _, twice := params[part.FormName()]; twice {
			continue
		}
		if len(params) == maxParams {
			return errors.New("too many parameters")
		}
		params[part.FormName()] = string(value)
	}
}

// readForm adds the pairs of a form to params. Unlike net/url it accepts a bare semicolon, as Java servers do.
func readForm(form string, params map[string]string) error {
	for form != "" {
		var pair string
		pair, form, _ = strings.Cut(form, "&")
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return err
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return err
		}
		if _, twice := params[name]; twice {
			continue
		}
		if len(params) == maxParams {
			return errors.New("too many parameters")
		}
		params[name] = value
	}
	return nil
}

// admit runs the gateway's checks in the sequence of docs/jd-api.md, Error codes (JD's own is unknown). The costly ones
// run outside the lock.
func (jd *JD) admit(c *call, params map[string]string) *Refusal {
	secret, clock, window, no := jd.enter(c, params)
	if no != nil {
		return no
	}
	if no := checkTimestamp(params["timestamp"], clock, window); no != nil {
		return no
	}
	switch {
	case params["v"] == "": // the value is ignored
		return refuse(codeNoVersion, "")
	case params["sign"] == "":
		return refuse(codeNoSign, "")
	case !signed(secret, params):
		jd.mu.Lock()
		jd.violated(c, BadSignature)
		jd.mu.Unlock()
		return refuse(codeBadSign, "")
	case params["access_token"] == "":
		return refuse(codeNoToken, "")
	}
	if no := jd.permit(c, params["access_token"], clock); no != nil {
		return no
	}
	return c.readFields(params[paramJSON])
}

// enter identifies the app and counts its call. Every call of a known app counts towards the quota, whatever its outcome.
func (jd *JD) enter(c *call, params map[string]string) (secret string, clock time.Time, window time.Duration, no *Refusal) {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	name := params["method"]
	c.version = params["v"]
	if _, known := methods[shortMethod(name)]; known && name != shortMethod(name) {
		c.method = shortMethod(name)
	}
	app := jd.apps[params["app_key"]]
	switch {
	case name == "":
		return "", clock, 0, refuse(codeNoMethod, "")
	case params["app_key"] == "":
		return "", clock, 0, refuse(codeNoAppKey, "")
	case app == nil:
		return "", clock, 0, refuse(codeUnknownApp, "")
	}
	c.app = app
	app.inFlight++
	jd.count.MostInFlight = max(jd.count.MostInFlight, app.inFlight)
	quota := jd.knobs.Quota
	switch {
	case !app.arrive(c.arrived, quota.PerSecond):
		jd.violated(c, QuotaExceeded)
		return "", clock, 0, refuse(codeLimited, "")
	case quota.Concurrent > 0 && app.inFlight > quota.Concurrent:
		jd.violated(c, ConcurrencyExceeded)
		return "", clock, 0, refuse(codeLimited, "")
	}
	return app.secret, c.arrived.Add(time.Duration(jd.knobs.ClockSkew)), time.Duration(jd.knobs.ClockWindow), nil
}

// permit checks the token and what it may call.
func (jd *JD) permit(c *call, token string, clock time.Time) *Refusal {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	grant, known := jd.tokens[token]
	switch {
	case !known, grant.app != c.app, !grant.Expires.IsZero() && !clock.Before(grant.Expires):
		return refuse(codeBadToken, "")
	case c.method == "":
		return refuse(codeUnknownMethod, "")
	case lists(jd.knobs.Denied, c.method), lists(grant.Denied, c.method):
		return refuse(codeNotPermitted, "")
	}
	c.token = grant.Token
	return nil
}

func lists(names []string, method string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return shortMethod(n) == method })
}

func checkTimestamp(text string, now time.Time, window time.Duration) *Refusal {
	if text == "" {
		return refuse(codeNoTimestamp, "")
	}
	at, err := time.ParseInLocation(timeLayout, text, beijing)
	if err != nil {
		if at, err = time.Parse(csharpLayout, text); err != nil {
			return refuse(codeBadTimestamp, "")
		}
	}
	if off := now.Sub(at); off > window || off < -window {
		return refuse(codeBadTimestamp, "")
	}
	return nil
}

// signed checks the MD5 signature (docs/jd-api.md, Signature) over all decoded parameters. SDKs disagree about empty
// values (Java and C# leave them out), about values that begin with @ (PHP leaves them out), and about a parameter named
// other (sent unsigned); each of these variants is accepted.
func signed(secret string, params map[string]string) bool {
	if m := params["sign_method"]; m != "" && !strings.EqualFold(m, "md5") {
		return false // HMAC is not played: its details are incomplete
	}
	all := func(string, string) bool { return true }
	readings := []func(name, value string) bool{
		all,
		func(_, v string) bool { return v != "" },
		func(_, v string) bool { return !strings.HasPrefix(v, "@") },
	}
	if _, sent := params["other"]; sent {
		for _, counts := range slices.Clone(readings) {
			readings = append(readings, func(name, v string) bool { return name != "other" && counts(name, v) })
		}
	}
	return slices.ContainsFunc(readings, func(counts func(name, value string) bool) bool {
		return subtle.ConstantTimeCompare([]byte(sign(secret, params, counts)), []byte(params["sign"])) == 1
	})
}

func sign(secret string, params map[string]string, counts func(name, value string) bool) string {
	text := bytes.NewBufferString(secret)
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if name != "sign" && name != "" && counts(name, params[name]) {
			text.WriteString(name)
			text.WriteString(params[name])
		}
	}
	text.WriteString(secret)
	sum := md5.Sum(text.Bytes())
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// readFields reads the business parameters: one flat object whose scalars may be text, numbers or booleans.
func (c *call) readFields(text string) *Refusal {
	c.fields = map[string]string{}
	if text == "" {
		text = "{}"
	}
	var members map[string]any
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var mismatch *json.UnmarshalTypeError
	if err := decoder.Decode(&members); errors.As(err, &mismatch) {
		return refuse(codeJSONConversion, "")
	} else if err != nil {
		return refuse(codeBadJSON, "")
	}
	if _, err := decoder.Token(); err != io.EOF {
		return refuse(codeBadJSON, "")
	}
	for name, value := range members {
		switch v := value.(type) {
		case nil:
		case string:
			c.fields[name] = v
		case json.Number:
			c.fields[name] = v.String()
		case bool:
			c.fields[name] = map[bool]string{true: "true", false: "false"}[v]
		default:
			return refuse(codeJSONConversion, "")
		}
	}
	switch c.method {
	case "eclp.order.addOrder":
		c.isvUUID = c.fields["isvUUID"]
		c.goods = append(split(c.fields["goodsNo"]), split(c.fields["isvGoodsNo"])...)
	case addPurchase:
		c.spPoOrderNo = c.fields["spPoOrderNo"]
		c.goods = append(split(c.fields["deptGoodsNo"]), split(c.fields["isvGoodsNo"])...)
	default:
		c.poOrderNo = c.fields["poOrderNo"]
		c.eclpSoNo = c.fields["eclpSoNo"]
		c.goods = append(split(c.fields["goodsNo"]), split(c.fields["goodsNos"])...)
	}
	for _, name := range []string{"isvUUID", "eclpSoNo", "spSoNos", "spPoOrderNo", "poOrderNo"} {
		c.numbers = append(c.numbers, split(c.fields[name])...)
	}
	return nil
}

// split splits a comma list; empty text is an empty list.
func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// finish writes the call into log and counters. It runs before the answer is sent, so that a caller with the answer finds
// the call counted and its place in the quota free.
func (jd *JD) finish(c *call, fate mishap, no *Refusal, broken string) {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	if c.app != nil {
		c.app.inFlight--
	}
	entry := Call{
		Seq: jd.calls.next + 1, At: c.arrived, TookMillis: jd.now().Sub(c.arrived).Milliseconds(),
		Method: c.method, IsvUUID: c.isvUUID, EclpSoNo: c.eclpSoNo, Done: c.done, Gone: c.gone(), Answer: "ok", Code: "0", Fault: fate.id,
	}
	entry.SpPoOrderNo, entry.PoOrderNo = c.spPoOrderNo, c.poOrderNo
	if c.app != nil {
		entry.App = c.app.key
	}
	answered := fate.kind == "" || fate.kind == Error
	switch {
	case broken != "":
		entry.Answer, entry.Code = broken, ""
	case !answered:
		entry.Answer, entry.Code = string(fate.kind), ""
	case no != nil:
		entry.Answer, entry.Code = "refused", no.Code
	}
	jd.calls.add(entry, keepCalls)
	jd.count.Calls[c.method]++
	if entry.Code != "" {
		jd.count.Codes[entry.Code]++
	}
	if !fate.work {
		jd.count.NotDone++
	}
	if entry.Answer == "refused" && !c.done {
		switch c.method {
		case "eclp.order.addOrder":
			jd.count.Refused[no.Code]++
		case addPurchase:
			jd.count.Purchases.Refused[no.Code]++
		}
	}
	if c.done && entry.Answer != "ok" && methods[c.method].write {
		jd.count.LostAnswers++
	}
}

// write encodes the answer and sends it.
func (jd *JD) write(w http.ResponseWriter, c *call, fate mishap, result any, no *Refusal) {
	jd.mu.Lock()
	k := jd.knobs
	jd.mu.Unlock()
	var body []byte
	if no != nil {
		body = encode(object{"error_response": errorBody(no)})
	} else {
		answer := object{"code": "0"}
		if k.ExtraKeys {
			answer["sandboxTrace"] = object{"id": "1"}
		}
		if result != nil {
			answer[methods[c.method].key] = k.format(result)
		}
		spelling := k.Spelling
		if spelling == SpellingByVersion {
			if spelling = "responce"; c.version != "2.0" {
				spelling = "response"
			}
		}
		body = encode(object{strings.ReplaceAll(methodPrefix+c.method, ".", "_") + "_" + spelling: answer})
	}

	jd.send(w, fate, body)
}

// send sends a body, or what a fault makes of it.
func (jd *JD) send(w http.ResponseWriter, fate mishap, body []byte) {
	jd.mu.Lock()
	at := jd.gatewayTime()
	jd.mu.Unlock()
	w.Header().Set("Date", at.UTC().Format(http.TimeFormat))
	contentType := "application/json;charset=utf-8"
	status := http.StatusOK
	switch fate.kind {
	case LoseAnswer, Drop:
		panic(http.ErrAbortHandler) // the server's way to cut a connection
	case HTTP:
		status, body, contentType = fate.status, []byte(http.StatusText(fate.status)+"\n"), "text/plain;charset=utf-8"
	case HTML:
		body, contentType = []byte("<html><head><title>京东</title></head><body><h1>系统繁忙，请稍后再试</h1></body></html>\n"), "text/html;charset=utf-8"
	case Empty:
		body = nil
	case Truncated:
		body = body[:len(body)/2]
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func errorBody(no *Refusal) object {
	body := object{"code": string(no.Code), "zh_desc": no.ZH}
	if no.EN != "" {
		body["en_desc"] = no.EN
	}
	return body
}

// encode writes raw UTF-8, as JD does.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("jdsandbox: answer does not encode: " + err.Error()) // answers consist of text and numbers only
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}
