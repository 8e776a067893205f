package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/testenv"
	"stockbridge/services/order-pusher/pusher"
)

// What JD says of a receiver, in various spellings.
const quoted = "收件人欧阳小明，手机13800001234，即 138 0000 1234、+86-138-0000-1234、１３８００００１２３４，座机0755 8888 6666，邮箱 xiaoming@example.com，" +
	"地址[望京示例甲路18号院7号楼2单元301]，即示例甲路 18 号院…，留言“放门口，打给家人王大锤”，备注“老客户多送一双”"

// pieces are those by which a person could be identified.
var pieces = []string{"欧阳小明", "13800001234", "138 0000", "138-0000", "１３８０", "8888 6666", "88886666", "8888-6666", "xiaoming", "示例甲路", "18号院", "18 号院", "王大锤", "多送一双"}

func person(o *orderv1.Audited) *orderv1.Audited {
	r := o.Receiver
	r.Name, r.Mobile, r.Phone, r.Email, r.Address = "欧阳小明", "13800001234", "0755-88886666", "xiaoming@example.com", "望京示例甲路 18 号院 7 号楼 2 单元 301"
	o.BuyerRemark, o.SellerRemark = "放门口，打给家人王大锤", "老客户多送一双"
	return o
}

// quoting stands before JD and answers the placing of an order P-<code> with that code and text; it relays everything
// else.
type quoting struct {
	*httptest.Server
	mu       sync.Mutex
	answered map[string]bool
}

func quotingJD(t *testing.T) *quoting {
	q := &quoting{answered: map[string]bool{}}
	q.Server = httptest.NewUnstartedServer(nil)
	t.Cleanup(func() { q.Close() })
	return q
}

// before puts it before the gateway that a set-up names.
func (q *quoting) before(t *testing.T, account *sellerv1.Account) {
	to, err := url.Parse(account.Url)
	if err != nil {
		t.Fatal(err)
	}
	on := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: to.Scheme, Host: to.Host})
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	on.Transport = transport
	q.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		form, _ := url.ParseQuery(string(body))
		var order struct{ IsvUUID string }
		_ = json.Unmarshal([]byte(form.Get("360buy_param_json")), &order)
		code, mine := strings.CutPrefix(order.IsvUUID, "P-")
		if !mine || !strings.HasSuffix(r.URL.Query().Get("method"), ".addOrder") {
			on.ServeHTTP(w, r)
			return
		}
		q.mu.Lock()
		q.answered[order.IsvUUID] = true
		q.mu.Unlock()
		switch code {
		case "html":
			fmt.Fprintf(w, "<html>%s</html>", quoted)
		case "http500":
			http.Error(w, quoted, http.StatusInternalServerError)
		case "envelope":
			fmt.Fprintf(w, `{"jingdong_eclp_order_addOrder_responce":{"code":%q}}`, quoted)
		case "number":
			fmt.Fprintf(w, `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":%q}}`, quoted)
		default:
			text, _ := json.Marshal("参数不合法：" + quoted)
			fmt.Fprintf(w, `{"error_response":{"code":%q,"zh_desc":%s}}`, code, text)
		}
	})
	q.Start()
	account.Url = q.URL + to.Path
}

func (q *quoting) heard(nos []string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !slices.ContainsFunc(nos, func(no string) bool { return !q.answered[no] })
}

type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// JD quotes the receiver in every text, under every code. Nothing of that is stored anywhere but in the order itself:
// as the ERP published it, and in its copies that wait or are dead-lettered.
func TestNothingButTheOrderHoldsItsReceiver(t *testing.T) {
	t.Parallel()
	for _, kept := range testenv.Ledgers {
		t.Run(kept, func(t *testing.T) {
			t.Parallel()
			jd, log, spans := quotingJD(t), &lines{}, tracetest.NewInMemoryExporter()
			w := testenv.Start(t, testenv.Options{
				Ledger: kept, LogTo: log, Traces: tracedBy(spans),
				Pusher: func(c *pusher.Config) { c.BreakerAfter = 1 << 20 },
				Setup:  func(s *sellerv1.Setup) { jd.before(t, s.Accounts[0]) },
			})
			ended := func(nos []string) {
				t.Helper()
				w.Until("each is answered and has come to something", func() bool {
					if !jd.heard(nos) {
						return false
					}
					for _, no := range nos {
						if o := w.Published(stack.DemoSeller).Orders[no]; o != nil && len(o.Failed)+len(o.Held) > 0 {
							continue
						}
						// Unknown, or to be retried: then it has a history.
						e, err := w.Ledger.Get(t.Context(), ledger.Key{Seller: stack.DemoSeller, Kind: "order", No: no})
						if err != nil || !slices.ContainsFunc(e.Attempts, func(a ledger.Attempt) bool { return a.What != "begun" }) {
							return false
						}
					}
					return true
				})
			}
			push := func(codes ...string) (nos []string) {
				for _, code := range codes {
					o := person(w.Maker.Next())
					o.OutboundNo = "P-" + code
					w.Publish(o)
					nos = append(nos, o.OutboundNo)
				}
				return nos
			}
			codes := []string{"html", "http500", "envelope", "number", "1100", "5001", "10500"}
			for code := 1; code <= 75; code++ {
				switch code {
				case 8, 12, 18, 19, 20, 21, 22: // a wrong clock is corrected and retried at once; tokens pause the seller, below
				default:
					codes = append(codes, strconv.Itoa(code))
				}
			}
			nos := push(codes...)
			onHold := person(w.Maker.Next())
			onHold.Hold = &orderv1.Hold{Reason: "欧阳小明 13800001234 要求缓发，示例甲路18号院"}
			masked := person(w.Maker.Next())
			masked.Lines[0].Price = "1.2.3"
			w.Publish(onHold, masked)
			w.PublishRaw(event.OrderAudited.Name+"."+stack.DemoSeller, []byte(quoted))
			ended(nos)
			w.UntilPublished("it is on hold", onHold, held)

			file := filepath.Join(t.TempDir(), "order.json")
			text, err := protojson.Marshal(onHold)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			token := push("19")
			w.Until("the seller is paused", func() bool {
				out, _ := bridgectl(t, w, "seller", "ls", "-o", "json")
				return jd.heard(token) && bytes.Contains(out, []byte(`"by": "token"`))
			})

			clean := func(what, text string) {
				t.Helper()
				for _, p := range pieces {
					if i := strings.Index(text, p); i >= 0 {
						t.Errorf("%s: %s in …%s…", what, p, strings.ToValidUTF8(text[max(0, i-150):min(len(text), i+80)], ""))
						return
					}
				}
			}
			for _, lang := range []string{"en", "zh"} {
				for _, format := range []string{"table", "json"} {
					run := func(args ...string) {
						t.Helper()
						args = append([]string{"--lang", lang}, append(args, "-o", format)...)
						out, _ := bridgectl(t, w, args...)
						if len(out) == 0 {
							t.Errorf("%v prints nothing", args)
						}
						clean(strings.Join(args, " "), string(out))
					}
					run("seller", "ls")
					run("held", "ls")
					run("dlq", "ls")
					run("order", "check", "-f", file)
					if lang == "zh" {
						continue
					}
					for _, no := range []string{"P-43", "P-24", "P-5001", "P-2", onHold.OutboundNo} {
						run("order", "explain", no)
					}
					for _, kind := range []string{event.Held, event.Dead} {
						for _, m := range w.DeadLetters(kind)[:8] {
							run(kind, "show", fmt.Sprint(m.Seq))
						}
					}
				}
			}
			for _, kind := range []string{event.Held, event.Dead} {
				for _, m := range w.DeadLetters(kind) {
					m.Body = nil
					clean("in the dead letter beside the order", fmt.Sprintf("%+v", m))
				}
			}
			clean("log", log.String())
			traced, err := json.Marshal(spans.GetSpans())
			if err != nil {
				t.Fatal(err)
			}
			clean("spans", string(traced))
			direct := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			metrics, err := direct.Get("http://" + w.HTTPAt + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			defer metrics.Body.Close()
			counted, err := io.ReadAll(metrics.Body)
			if err != nil || len(counted) == 0 {
				t.Fatal(err)
			}
			clean("metrics", string(counted))
			orders := 0
			for _, dir := range w.Dirs() {
				err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
					if err != nil || d.IsDir() {
						return nil //nolint:nilerr // it was deleted meanwhile
					}
					text, err := os.ReadFile(path)
					if err != nil {
						return nil //nolint:nilerr // the same
					}
					for _, stream := range []string{"INTAKE", "RETRY", "SHELF"} {
						if strings.Contains(path, string(filepath.Separator)+stream+string(filepath.Separator)) {
							orders += bytes.Count(text, []byte("欧阳小明"))
							return nil
						}
					}
					clean(path, string(text))
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if orders < len(nos) {
				t.Errorf("only %d orders were there to be seen", orders)
			}
		})
	}
}
