package jd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
)

const (
	// clockLimit is how far our clock may be from JD's (docs/jd-api.md, Timestamp). Half of it already counts as a fault,
	// because clocks drift on.
	clockLimit = 6 * time.Minute
	// turnPatience is how long a diagnosis waits for its turn within the quota.
	turnPatience = 10 * time.Second
	// codeNoMethod is JD's code for a method that does not exist; queryOrderStatus may be one (docs/jd-api.md, Order
	// look-up).
	codeNoMethod = "15"
	// absentOrder is a number that no document of JD's has.
	absentOrder = "ESL0000000000000000"
	// absentGoods is a number that no goods of JD's have.
	absentGoods = "EMG0000000000000"
)

// numberFormats are the formats of JD's numbers (docs/jd-api.md, Numbers and texts). JD does not promise them, so a
// number of another format is only probably wrong.
var numberFormats = []struct {
	prefix string
	form   *regexp.Regexp
	zh, en string
}{
	{"department", regexp.MustCompile(`^EBU\d+$`), "事业部编号通常以 EBU 开头", "numbers of business units begin with EBU"},
	{"vendor_source", regexp.MustCompile(`^ISV\d+$`), "ERP 编号通常以 ISV 开头，由京东分配", "vendors' numbers begin with ISV and are given by JD"},
	{"carrier_owner", regexp.MustCompile(`^(\d{3}K\d+)?$`), "青龙业主号形如 010K1123", "Qinglong owner numbers look like 010K1123"},
	{"warehouses[", regexp.MustCompile(`^11\d{7}$`), "仓库编号通常为 11 开头的九位数字", "warehouses' numbers have nine digits and begin with 11"},
	{"shops[", regexp.MustCompile(`^ESP\d+$`), "店铺编号通常以 ESP 开头", "shops' numbers begin with ESP"},
	{"carriers[", regexp.MustCompile(`^CYS\d+$`), "承运商编号通常以 CYS 开头", "carriers' numbers begin with CYS"},
	{"suppliers[", regexp.MustCompile(`^EMS\d+$`), "供应商编号通常以 EMS 开头", "suppliers' numbers begin with EMS"},
	{"categories[", regexp.MustCompile(`^\d+$`), "京东三级分类编号为数字", "third-level categories are numbers"},
	{"platforms[", regexp.MustCompile(`^\d+$`), "销售平台编号为数字（1 为京东，6 为其他）", "sales platforms are numbers (1 is JD, 6 is other)"},
}

var _ warehouse.Doctor = (*Warehouse)(nil)

// Diagnose tries everything that orders need of JD and, if a shop has a booking, everything that following its stock
// needs. To check whether orders may be sent it sends an empty one, which JD rejects by its parameters after it has
// checked the permission. That JD checks in this sequence is an inference: if it does not, a missing permission shows
// only with the first order.
func (w *Warehouse) Diagnose(ctx context.Context) []warehouse.Diagnosis {
	rows := w.numbers()
	dates := &dateRecorder{to: w.api.Transport}
	if dates.to == nil {
		dates.to = jdapi.NewTransport()
	}
	// A client of its own: it reads JD's clock without correcting the workers' clients.
	api := &jdapi.Client{
		URL: w.api.URL, AppKey: w.api.AppKey, AppSecret: w.api.AppSecret, Tokens: w.api.Tokens,
		Limiter: w.api.Limiter, Class: w.api.Class, Transport: dates, Now: w.api.Now, ReadOnly: w.api.ReadOnly,
	}
	calls := []probe{
		{jdapi.MethodExtQueryOrder, "无法按单号确认订单是否已推送", "whether an order arrived cannot be looked up", func(ctx context.Context) error {
			_, err := api.ExtQueryOrder(ctx, jdapi.ExtQueryOrder{
				IsvUUIDs: []string{"DOCTOR"}, IsvSource: w.account.VendorSource, DepartmentNo: w.account.Department,
			})
			return err
		}},
		{jdapi.MethodAddOrder, "无法推送订单", "orders cannot be pushed", func(ctx context.Context) error {
			no, err := api.AddOrder(ctx, jdapi.AddOrder{})
			if err == nil {
				err = fault.Reason{
					Code: "doctor.taken", ZH: "京东接受了一张空的出库单 " + no + "，请立即人工取消",
					EN: "JD took an order with nothing in it as " + no + ": cancel it by hand at once",
				}
			}
			return err
		}},
		{jdapi.MethodQueryOrder, "无法跟踪订单", "orders cannot be followed", func(ctx context.Context) error {
			_, err := api.QueryOrder(ctx, absentOrder)
			return err
		}},
		{jdapi.MethodQueryOrderStatus, "订单明细不含状态时，无法得知订单状态", "states are not known where the details lack them", func(ctx context.Context) error {
			_, err := api.QueryOrderStatus(ctx, absentOrder)
			return err
		}},
		{jdapi.MethodQueryOrderPacks, "一单多包裹时，无法得知各包裹内的商品", "with several packages it is unknown which goods are in which", func(ctx context.Context) error {
			_, err := api.QueryOrderPacks(ctx, absentOrder)
			return err
		}},
	}
	calls = append(calls, w.stockCalls(api)...)
	for i, c := range calls {
		if w.api.ReadOnly && c.method == jdapi.MethodAddOrder {
			rows = append(rows, warehouse.Diagnosis{What: shortMethod(c.method), Note: "not tried: nothing that writes is called in shadow"})
			continue
		}
		err := inTurn(ctx, c.call)
		if i == 0 {
			general, goOn := w.general(err, dates, api.URL)
			if rows = append(rows, general...); !goOn {
				return rows
			}
		}
		rows = append(rows, warehouse.Diagnosis{What: shortMethod(c.method), Err: permissionFinding(err, c.zh, c.en)})
	}
	rows = append(rows, w.lists(ctx, api)...)
	if w.seller.Setup.GetStock().GetSetAtWarehouse() {
		rows = append(rows, warehouse.Diagnosis{What: shortMethod(jdapi.MethodSetShopStockFixed), Note: "not tried: it would overwrite stock"})
	}
	return rows
}

// probe is a call, and what does not work without it.
type probe struct {
	method string
	zh, en string
	call   func(context.Context) error
}

// stockCalls returns the probes for following stock, for one place of this account whose shop has a booking; none if
// there is no such place. They read the last minute of the flow and set no stock.
func (w *Warehouse) stockCalls(api *jdapi.Client) []probe {
	no, shopNo := "", ""
	for _, p := range w.seller.Places() {
		if site, _ := w.seller.Warehouse(p.Warehouse); site.GetAccount() == w.account.Name {
			no, shopNo = site.WarehouseNo, p.ShopNo
			break
		}
	}
	if no == "" {
		return nil
	}
	now := time.Now
	if w.api.Now != nil {
		now = w.api.Now
	}
	dept := w.account.Department
	flow := jdapi.FlowQuery{DeptNo: dept, WarehouseNo: no, ShopNo: shopNo, From: now().Add(-2 * time.Minute), To: now().Add(-time.Minute), Page: 1, PageSize: flowPage}
	shop := jdapi.ShopStockQuery{DeptNo: dept, WarehouseNo: no, ShopNo: shopNo, GoodsNos: []string{absentGoods}, Page: 1, PageSize: shopStockPage}
	changes := jdapi.ChangeQuery{DeptNo: dept, From: flow.From, To: flow.To, Page: 1, PageSize: 1}
	unread, unproved := "无法读取店铺库存流水，库存调整不会下发", "movements are not read, and no adjustment is published"
	calls := []probe{
		{jdapi.MethodQueryVmiShopStockFlow, unread, unproved, func(ctx context.Context) error {
			rows, end, err := api.QueryVmiShopStockFlow(ctx, flow)
			if err == nil && !end && len(rows) == 0 {
				return fault.ReasonOf(missingEnd(), "")
			}
			return w.flowRefused(err, shopNo)
		}},
		{jdapi.MethodQueryVmiShopStock, "无法核对店铺库存", "shops' stock cannot be checked", func(ctx context.Context) error {
			_, err := api.QueryVmiShopStock(ctx, shop)
			return err
		}},
	}
	unexplained, why := "无法用盘点和等级变更解释库存差异", "differences cannot be explained by stock-takes and changes of level"
	return append(calls,
		probe{jdapi.MethodQueryStock, "无法盘点仓库库存，店铺可售数量不会更新", "the warehouse is not counted, and shops' shares are not published", func(ctx context.Context) error {
			_, err := api.QueryStock(ctx, dept, no, 1, 1)
			return err
		}},
		probe{jdapi.MethodQueryCheckStockProfit, unexplained, why, func(ctx context.Context) error {
			_, err := api.QueryCheckStockProfit(ctx, changes)
			return err
		}},
		probe{jdapi.MethodQueryCheckStockLosses, unexplained, why, func(ctx context.Context) error {
			_, err := api.QueryCheckStockLosses(ctx, changes)
			return err
		}},
		probe{jdapi.MethodQueryGoodsLevelChange, unexplained, why, func(ctx context.Context) error {
			_, err := api.QueryGoodsLevelChange(ctx, changes)
			return err
		}},
	)
}

// flowRefused turns JD's refusal to list a flow into a finding: unlike the absent numbers in the other probes, the shop
// and the warehouse here are those of the settings.
func (w *Warehouse) flowRefused(err error, shopNo string) error {
	var no *jdapi.Error
	if errors.As(err, &no) && (no.Class == jdapi.ClassBusiness || no.Class == jdapi.ClassData) {
		return refusal(no, "stock.refused", "京东拒绝读取店铺 "+shopNo+" 的库存流水，请核对店铺、仓库、事业部编号",
			"JD does not list the flow of shop "+shopNo+": check the numbers of shop, warehouse and department")
	}
	return err
}

// numbers checks the format of the numbers in the settings that this account serves.
func (w *Warehouse) numbers() []warehouse.Diagnosis {
	var wrong []warehouse.Diagnosis
	look := func(field, prefix, value string) {
		for _, f := range numberFormats {
			if f.prefix == prefix && !f.form.MatchString(value) {
				wrong = append(wrong, warehouse.Diagnosis{What: field, Err: fault.Reason{
					Code: "setup.form", ZH: value + " 可能有误：" + f.zh, EN: value + " is probably wrong: " + f.en,
				}})
			}
		}
	}
	look("department", "department", w.account.Department)
	look("vendor_source", "vendor_source", w.account.VendorSource)
	look("carrier_owner", "carrier_owner", w.account.CarrierOwner)
	ours := map[string]bool{}
	for _, site := range w.seller.Setup.Warehouses {
		if site.Account == w.account.Name {
			ours[site.Code] = true
			look("warehouses["+site.Code+"]", "warehouses[", site.WarehouseNo)
		}
	}
	for _, shop := range w.seller.Setup.Shops {
		for _, code := range shop.Warehouses {
			if ours[code] {
				look("shops["+shop.Code+"]", "shops[", shop.ShopNo)
				break
			}
		}
	}
	for _, m := range w.seller.Setup.Carriers {
		look("carriers["+m.Code+"]", "carriers[", m.Number)
	}
	for _, m := range w.seller.Setup.Suppliers {
		look("suppliers["+m.Code+"]", "suppliers[", m.Number)
	}
	for _, m := range w.seller.Setup.Categories {
		look("categories["+m.Code+"]", "categories[", m.Number)
	}
	for _, m := range w.seller.Setup.Platforms {
		look("platforms["+m.Code+"]", "platforms[", m.Number)
	}
	if len(wrong) > 0 {
		return wrong
	}
	return []warehouse.Diagnosis{{What: "numbers", Note: "all look like JD's"}}
}

// general returns what the first call shows about all calls: whether JD answers, the clock, the credential. goOn is false
// if no other call can succeed.
func (w *Warehouse) general(err error, dates *dateRecorder, url string) (rows []warehouse.Diagnosis, goOn bool) {
	var no *jdapi.Error
	answered := err == nil || errors.As(err, &no)
	if url == "" {
		url = jdapi.Production
	}
	if !answered {
		what, reason := "address", fault.Reason{
			Code: "warehouse.silent", ZH: url + " 没有返回可识别的应答，请检查地址和网络：" + err.Error(),
			EN: "no usable answer from " + url + "; check the address and the network: " + err.Error(),
		}
		var kept fault.Reason
		if errors.Is(err, jdapi.ErrAddress) {
			reason = fault.ReasonOf(w.wrongAddress(err), reason.Code)
		} else if errors.Is(err, jdapi.ErrToken) && errors.As(err, &kept) {
			what, reason = "token", kept
		} else if errors.Is(err, jdapi.ErrToken) {
			what, reason = "token", fault.Reason{
				Code: "warehouse.token", ZH: "本机读不到授权信息（令牌或应用密钥），请检查设置中的 file 或 env：" + err.Error(),
				EN: "the credential cannot be read on this machine; check file or env in the set-up: " + err.Error(),
			}
		}
		return []warehouse.Diagnosis{{What: what, Err: reason}}, false
	}
	rows = append(rows, warehouse.Diagnosis{What: "address", Note: url}, clockRow(dates.behind(w.api.Now)))
	if no != nil && no.Class == jdapi.ClassClock {
		return rows, false
	}
	token := warehouse.Diagnosis{What: "token"}
	if errors.Is(err, jdapi.ErrToken) {
		token.Err = fault.ReasonOf(w.setupError(err), "warehouse.token")
	}
	return append(rows, token), token.Err == nil
}

func clockRow(behind time.Duration, known bool) warehouse.Diagnosis {
	d := warehouse.Diagnosis{What: "clock"}
	off := behind.Round(time.Second)
	zh, en := fmt.Sprintf("慢 %v", off), fmt.Sprintf("%v behind", off)
	if off < 0 {
		zh, en = fmt.Sprintf("快 %v", -off), fmt.Sprintf("%v ahead of", -off)
	}
	switch {
	case !known:
		d.Note = "JD gave no time"
	case off.Abs() > clockLimit/2:
		d.Err = fault.Reason{
			Code: "clock.off", ZH: fmt.Sprintf("本机时钟比京东%s，最多允许 %v；请启用 NTP 校时", zh, clockLimit),
			EN: fmt.Sprintf("this machine's clock is %s JD's, which takes %v at most: keep it by NTP", en, clockLimit),
		}
	default:
		d.Note = en + " JD's"
	}
	return d
}

// permissionFinding returns what a call's error says about its permission: nil if JD looked at the query itself.
func permissionFinding(err error, zh, en string) error {
	var no *jdapi.Error
	var reason fault.Reason
	switch {
	case err == nil:
		return nil
	case errors.As(err, &reason):
		return reason
	case !errors.As(err, &no):
		return fault.Reason{Code: "warehouse.silent", ZH: "没有收到可识别的应答，请重试：" + err.Error(), EN: "no usable answer, try again: " + err.Error()}
	}
	switch {
	case no.Code == codeNoMethod:
		return refusal(no, "warehouse.method", "京东不认识此接口，请检查 url，并向京东确认该接口是否可用；否则"+zh,
			"JD does not know this call: check url, and ask JD whether it is available; until then "+en)
	case no.Class == jdapi.ClassProgram:
		return refusal(no, "warehouse.call", "京东网关不接受此调用方式，请核对 url 与应用所属平台；否则"+zh, "JD's gateway does not take this call as it is made: check url and the application's platform; until then "+en)
	case no.Class == jdapi.ClassPermission:
		return refusal(no, "warehouse.permission", "请在京东开放平台开通此接口权限，否则"+zh, "have JD grant this call, or "+en)
	case no.Class == jdapi.ClassQuota:
		return refusal(no, "warehouse.quota", "京东的调用额度已用完，请稍后重试", "JD's call budget is used up, try again later")
	case no.Class == jdapi.ClassTransient:
		return refusal(no, "warehouse.silent", "京东暂时无法处理，请重试", "JD failed, try again")
	default: // an absent number, an empty order
		return nil
	}
}

// inTurn makes a call, waiting for its turn within the quota.
func inTurn(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, turnPatience)
	defer cancel()
	for {
		err := call(ctx)
		if fault.Of(err) != fault.Wait {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(fault.After(err)):
		}
	}
}

// dateRecorder records the time in JD's answers.
type dateRecorder struct {
	to   http.RoundTripper
	mu   sync.Mutex
	date time.Time
	at   time.Time
}

func (d *dateRecorder) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := d.to.RoundTrip(r)
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		if date, err := http.ParseTime(response.Header.Get("Date")); err == nil && d.date.IsZero() {
			d.date, d.at = date, time.Now()
		}
	}
	return response, err
}

// behind returns how far our clock is behind JD's, to a second or two; false if JD gave no time.
func (d *dateRecorder) behind(now func() time.Time) (time.Duration, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.date.IsZero() {
		return 0, false
	}
	ours := d.at
	if now != nil {
		ours = now().Add(-time.Since(d.at))
	}
	return d.date.Sub(ours), true
}
