package jdsandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"sigs.k8s.io/yaml"
)

// The credentials of a Config without Apps. They are for trying things out.
const (
	DefaultAppKey    = "sandbox-app"
	DefaultAppSecret = "sandbox-secret"
	DefaultToken     = "sandbox-token"
)

// Config is the initial state of a sandbox. The zero value accepts DefaultToken, any shop and any warehouse, runs at real
// speed and forgets everything when it ends.
type Config struct {
	Apps []App `json:"apps"`
	// Departments, Warehouses, Shops, Shippers and Suppliers are the rows of the master data calls. If a list is not empty,
	// addOrder and addPoOrder accept nothing else and nothing disabled. SpSources are only listed, default DefaultSpSources.
	Departments []Department `json:"departments"`
	Warehouses  []Warehouse  `json:"warehouses"`
	Shops       []Shop       `json:"shops"`
	Shippers    []Shipper    `json:"shippers"`
	Suppliers   []Supplier   `json:"suppliers"`
	SpSources   []SpSource   `json:"sp_sources"`
	// Stock is the initial stock of the warehouses. What State knows already stays as it is.
	Stock []Stock `json:"stock"`

	// Seed of all random choices.
	Seed uint64 `json:"seed"`
	// Speed of the warehouse's clock: 60 turns every second into a minute; 0 means 1.
	Speed float64 `json:"speed"`
	// Stopped stops the warehouse's clock until Advance or SetSpeed.
	Stopped bool `json:"stopped"`
	// State is the file that keeps the documents, violations and the warehouse's clock; "" keeps nothing. Settings, calls
	// and counters are not kept. Only one process may use a file.
	State string `json:"state"`
	// Control says who may use /_sandbox/: ControlLoopback (default) or ControlAnyone.
	Control Control `json:"control"`
	Knobs   Knobs   `json:"knobs"`

	// Now is the host's clock, default time.Now.
	Now func() time.Time `json:"-"`
}

// Control says who may use the control API.
type Control string

// ControlLoopback admits callers from the same host only. ControlAnyone admits everyone who can reach the address: for
// containers and closed networks.
const (
	ControlLoopback Control = "loopback"
	ControlAnyone   Control = "anyone"
)

// App is an application on JD's platform.
type App struct {
	Key    string  `json:"key"`
	Secret string  `json:"secret"`
	Tokens []Token `json:"tokens"`
}

// Token is a merchant's access to an App.
type Token struct {
	Value string `json:"token"`
	// Expires is when it begins to be answered with code 19; zero means never.
	Expires time.Time `json:"expires,omitzero"`
	// Departments that it is valid for (others: code 71, their documents do not exist); empty means all.
	Departments []string `json:"departments,omitempty"`
	// Denied lists methods that it may not call (code 24).
	Denied []string `json:"denied,omitempty"`
}

// Department is a row of master.queryDept. JD does not publish the meaning of Status.
type Department struct {
	DeptNo     string `json:"deptNo"`
	DeptName   string `json:"deptName,omitempty"`
	SellerNo   string `json:"sellerNo,omitempty"`
	SellerName string `json:"sellerName,omitempty"`
	Status     string `json:"status,omitempty"`
	// Disabled makes addOrder and addPoOrder refuse it, whatever Status says.
	Disabled     bool   `json:"disabled,omitempty"`
	ManagerName  string `json:"managerName,omitempty"`
	ManagerPhone string `json:"managerPhone,omitempty"`
}

// Warehouse is a row of master.queryWarehouse. JD does not publish the meaning of Status.
type Warehouse struct {
	WarehouseNo    string `json:"warehouseNo"`
	WarehouseName  string `json:"warehouseName,omitempty"`
	IsvWarehouseNo string `json:"isvWarehouseNo,omitempty"`
	Status         string `json:"status,omitempty"`
	// Disabled makes addOrder and addPoOrder refuse it, whatever Status says.
	Disabled bool `json:"disabled,omitempty"`
	// Departments that may use it; empty means all.
	Departments []string `json:"departments,omitempty"`
	Contacts    string   `json:"contacts,omitempty"`
	Phone       string   `json:"phone,omitempty"`
	Province    string   `json:"province,omitempty"`
	City        string   `json:"city,omitempty"`
	County      string   `json:"county,omitempty"`
	Town        string   `json:"town,omitempty"`
	Address     string   `json:"address,omitempty"`
}

// Shop is a row of master.queryShop. JD does not publish the meaning of Status and Type.
type Shop struct {
	ShopNo     string `json:"shopNo"`
	IsvShopNo  string `json:"isvShopNo,omitempty"`
	ShopName   string `json:"shopName,omitempty"`
	DeptNo     string `json:"deptNo"`
	SpSourceNo string `json:"spSourceNo,omitempty"`
	SpShopNo   string `json:"spShopNo,omitempty"`
	Type       string `json:"type,omitempty"`
	Status     string `json:"status,omitempty"`
	// Disabled makes addOrder refuse it, whatever Status says.
	Disabled          bool   `json:"disabled,omitempty"`
	BdOwnerNo         string `json:"bdOwnerNo,omitempty"`
	BizType           string `json:"bizType,omitempty"`
	Contacts          string `json:"contacts,omitempty"`
	Phone             string `json:"phone,omitempty"`
	Address           string `json:"address,omitempty"`
	AfterSaleContacts string `json:"afterSaleContacts,omitempty"`
	AfterSalePhone    string `json:"afterSalePhone,omitempty"`
	AfterSaleAddress  string `json:"afterSaleAddress,omitempty"`
}

// Shipper is a row of master.queryShipper. Status "0" is disabled, IsCod "0" collects no money.
type Shipper struct {
	ShipperNo   string `json:"shipperNo"`
	ShipperName string `json:"shipperName,omitempty"`
	Status      string `json:"status,omitempty"`
	IsCod       string `json:"isCod,omitempty"`
	Type        string `json:"type,omitempty"`
	IsTemplate  string `json:"isTemplate,omitempty"`
	Contacts    string `json:"contacts,omitempty"`
	Phone       string `json:"phone,omitempty"`
}

// Supplier is a row of master.querySupplier. Status "2" is enabled, "3" disabled.
type Supplier struct {
	EclpSupplierNo string `json:"eclpSupplierNo"`
	SupplierName   string `json:"supplierName,omitempty"`
	SupplierType   string `json:"supplierType,omitempty"`
	DeptNo         string `json:"deptNo"`
	Status         string `json:"status,omitempty"`
	Contacts       string `json:"contacts,omitempty"`
	Phone          string `json:"phone,omitempty"`
	Province       string `json:"province,omitempty"`
	City           string `json:"city,omitempty"`
	County         string `json:"county,omitempty"`
	Town           string `json:"town,omitempty"`
	Address        string `json:"address,omitempty"`
}

// SpSource is a row of master.querySpSource: a sales platform by its number in salePlatformSource.
type SpSource struct {
	SpSourceNo   string `json:"spSourceNo"`
	SpSourceName string `json:"spSourceName,omitempty"`
	Website      string `json:"website,omitempty"`
}

// DefaultSpSources are the sales platforms with known numbers (docs/jd-api.md, Sales orders).
func DefaultSpSources() []SpSource {
	return []SpSource{
		{SpSourceNo: "1", SpSourceName: "京东"}, {SpSourceNo: "2", SpSourceName: "天猫"}, {SpSourceNo: "3", SpSourceName: "苏宁"},
		{SpSourceNo: "4", SpSourceName: "亚马逊中国"}, {SpSourceNo: "6", SpSourceName: "其他"}, {SpSourceNo: "7", SpSourceName: "当当"},
		{SpSourceNo: "8", SpSourceName: "淘宝"}, {SpSourceNo: "17", SpSourceName: "唯品会"}, {SpSourceNo: "21", SpSourceName: "蘑菇街"},
		{SpSourceNo: "48", SpSourceName: "拼多多"}, {SpSourceNo: "84", SpSourceName: "小红书"}, {SpSourceNo: "92", SpSourceName: "一号店"},
		{SpSourceNo: "123", SpSourceName: "有赞"}, {SpSourceNo: "299", SpSourceName: "抖音"},
		{SpSourceNo: "8040355", SpSourceName: "快手"}, {SpSourceNo: "8040559", SpSourceName: "快手（密文）"},
	}
}

// ReadConfig reads a YAML (or JSON) file. It is strict and reports all faults at once.
func ReadConfig(path string) (Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read settings: %w", err)
	}
	cfg, err := ParseConfig(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s:\n%w", path, err)
	}
	return cfg, nil
}

// ParseConfig is ReadConfig for a text.
func ParseConfig(text []byte) (Config, error) {
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return Config{}, err
	}
	var cfg Config
	err = fill(raw, &cfg)
	cfg.setDefaults()
	if err := errors.Join(err, cfg.check()); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

func (c *Config) setDefaults() {
	if len(c.Apps) == 0 {
		c.Apps = []App{{Key: DefaultAppKey, Secret: DefaultAppSecret, Tokens: []Token{{Value: DefaultToken}}}}
	}
	orElse(&c.Speed, 1)
	orElse(&c.Control, ControlLoopback)
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Knobs.setDefaults()
}

func (c *Config) check() error {
	var f faults
	keys, tokens := map[string]bool{}, map[string]bool{}
	for i, a := range c.Apps {
		at := fmt.Sprintf("apps[%d].", i)
		f.when(a.Key == "", at+"key", "is required")
		f.when(a.Secret == "", at+"secret", "is required")
		f.when(keys[a.Key], at+"key", "is used twice")
		keys[a.Key] = true
		for j, t := range a.Tokens {
			at := fmt.Sprintf("%stokens[%d].", at, j)
			f.when(tokens[t.Value], at+"token", "is used twice")
			tokens[t.Value] = true
			t.check(at, &f)
		}
	}
	for i, w := range c.Warehouses {
		f.when(w.WarehouseNo == "", fmt.Sprintf("warehouses[%d].warehouseNo", i), "is required")
	}
	for i, s := range c.Shops {
		f.when(s.ShopNo == "", fmt.Sprintf("shops[%d].shopNo", i), "is required")
		f.when(s.DeptNo == "", fmt.Sprintf("shops[%d].deptNo", i), "is required")
	}
	for i, s := range c.Shippers {
		f.when(s.ShipperNo == "", fmt.Sprintf("shippers[%d].shipperNo", i), "is required")
	}
	for i, d := range c.Departments {
		f.when(d.DeptNo == "", fmt.Sprintf("departments[%d].deptNo", i), "is required")
	}
	for i, s := range c.Suppliers {
		f.when(s.EclpSupplierNo == "", fmt.Sprintf("suppliers[%d].eclpSupplierNo", i), "is required")
		f.when(s.DeptNo == "", fmt.Sprintf("suppliers[%d].deptNo", i), "is required")
	}
	for i, s := range c.SpSources {
		f.when(s.SpSourceNo == "", fmt.Sprintf("sp_sources[%d].spSourceNo", i), "is required")
	}
	stocked := map[[3]string]bool{}
	c.Stock = slices.Clone(c.Stock)
	for i := range c.Stock {
		at := fmt.Sprintf("stock[%d].", i)
		c.Stock[i].check(at, &f)
		key := [3]string{c.Stock[i].DeptNo, c.Stock[i].WarehouseNo, c.Stock[i].GoodsNo}
		f.when(stocked[key], at+"goodsNo", "is there twice")
		stocked[key] = true
	}
	f.speed(c.Speed)
	f.oneOf("control", string(c.Control), string(ControlLoopback), string(ControlAnyone))
	if err := c.Knobs.check(); err != nil {
		f = append(f, below("knobs", err)...)
	}
	return errors.Join(f...)
}

func (t *Token) check(at string, f *faults) {
	f.when(t.Value == "", at+"token", "is required")
	for i, m := range t.Denied {
		f.method(fmt.Sprintf("%sdenied[%d]", at, i), m)
	}
}

func (f *faults) speed(v float64) {
	f.when(!(v >= 0 && v <= 1_000_000), "speed", "must be from 0 to 1000000")
}

// below puts the path in front of each fault.
func below(path string, err error) []error {
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{fmt.Errorf("%s.%w", path, err)}
	}
	var each []error
	for _, e := range many.Unwrap() {
		each = append(each, fmt.Errorf("%s.%w", path, e))
	}
	return each
}
