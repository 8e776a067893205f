// Package control is a client of the sandbox's control API. It knows that API only, not JD's.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"stockbridge/pkg/jdsandbox"
)

// Client talks to one sandbox. Its methods may be called by many goroutines.
type Client struct {
	base string
	http *http.Client
}

// maxAnswer bounds an answer: the log of calls is the largest.
const maxAnswer = 64 << 20

// New makes a Client for the sandbox's address, such as "http://127.0.0.1:18080"; the gateway's path behind it is
// dropped.
func New(address string) *Client {
	base := strings.TrimSuffix(strings.TrimSuffix(address, "/"), "/routerjson")
	return &Client{base: base + "/_sandbox/", http: &http.Client{Timeout: 30 * time.Second}}
}

// Knobs returns the present knobs.
func (c *Client) Knobs(ctx context.Context) (k jdsandbox.Knobs, err error) {
	return k, c.do(ctx, http.MethodGet, "knobs", nil, &k)
}

// SetKnobs changes what the patch names and leaves the rest, e.g. map[string]any{"repeat": "same"}. Lists are replaced.
// It returns the knobs after that.
func (c *Client) SetKnobs(ctx context.Context, patch any) (k jdsandbox.Knobs, err error) {
	return k, c.do(ctx, http.MethodPut, "knobs", patch, &k)
}

// AddFault appends a fault and returns it with its id.
func (c *Client) AddFault(ctx context.Context, f jdsandbox.Fault) (made jdsandbox.Fault, err error) {
	return made, c.do(ctx, http.MethodPost, "faults", f, &made)
}

// RemoveFault removes one fault.
func (c *Client) RemoveFault(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "faults/"+url.PathEscape(id), nil, nil)
}

// ClearFaults removes all faults.
func (c *Client) ClearFaults(ctx context.Context) error {
	return c.do(ctx, http.MethodDelete, "faults", nil, nil)
}

// Take sends an order as another program of the merchant's, such as an ERP's own timer, would: addOrder's JSON.
func (c *Client) Take(ctx context.Context, addOrder json.RawMessage) (eclpSoNo string, err error) {
	var taken jdsandbox.Taken
	err = c.do(ctx, http.MethodPost, "orders", addOrder, &taken)
	return taken.EclpSoNo, err
}

// Documents returns all documents that the query selects, page by page; its Limit bounds the whole if it is not 0.
func (c *Client) Documents(ctx context.Context, q jdsandbox.Query) ([]jdsandbox.Document, error) {
	var docs []jdsandbox.Document
	after := q.After
	for {
		limit := 1000
		if q.Limit > 0 {
			limit = min(limit, q.Limit-len(docs))
		}
		params := url.Values{"after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(limit)}}
		for name, value := range map[string]string{"isvUUID": q.IsvUUID, "departmentNo": q.DepartmentNo, "status": string(q.Status)} {
			if value != "" {
				params.Set(name, value)
			}
		}
		var page jdsandbox.DocumentPage
		if err := c.do(ctx, http.MethodGet, "documents?"+params.Encode(), nil, &page); err != nil {
			return nil, err
		}
		docs = append(docs, page.Documents...)
		if after = page.Next; after == 0 || q.Limit > 0 && len(docs) >= q.Limit {
			return docs, nil
		}
	}
}

// Document returns one document with its parameters.
func (c *Client) Document(ctx context.Context, eclpSoNo string) (d jdsandbox.Document, err error) {
	return d, c.do(ctx, http.MethodGet, "documents/"+url.PathEscape(eclpSoNo), nil, &d)
}

// Purchases returns all purchase orders that the query selects, page by page; its Limit bounds the whole if it is not 0.
func (c *Client) Purchases(ctx context.Context, q jdsandbox.PurchaseQuery) ([]jdsandbox.Purchase, error) {
	var found []jdsandbox.Purchase
	after := q.After
	for {
		limit := 1000
		if q.Limit > 0 {
			limit = min(limit, q.Limit-len(found))
		}
		params := url.Values{"after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(limit)}}
		for name, value := range map[string]string{"spPoOrderNo": q.SpPoOrderNo, "deptNo": q.DeptNo, "status": string(q.Status)} {
			if value != "" {
				params.Set(name, value)
			}
		}
		var page jdsandbox.PurchasePage
		if err := c.do(ctx, http.MethodGet, "purchases?"+params.Encode(), nil, &page); err != nil {
			return nil, err
		}
		found = append(found, page.Purchases...)
		if after = page.Next; after == 0 || q.Limit > 0 && len(found) >= q.Limit {
			return found, nil
		}
	}
}

// Purchase returns one purchase order with its parameters.
func (c *Client) Purchase(ctx context.Context, poOrderNo string) (p jdsandbox.Purchase, err error) {
	return p, c.do(ctx, http.MethodGet, "purchases/"+url.PathEscape(poOrderNo), nil, &p)
}

// ReceivePurchase receives goods of a purchase order now and returns what that made of it.
func (c *Client) ReceivePurchase(ctx context.Context, poOrderNo string, r jdsandbox.PurchaseReceipt) (p jdsandbox.Purchase, err error) {
	return p, c.do(ctx, http.MethodPost, "purchases/"+url.PathEscape(poOrderNo)+"/receive", r, &p)
}

// ReleasePurchase lets a purchase order go on that waits at its status.
func (c *Client) ReleasePurchase(ctx context.Context, poOrderNo string) (p jdsandbox.Purchase, err error) {
	return p, c.do(ctx, http.MethodPost, "purchases/"+url.PathEscape(poOrderNo)+"/release", nil, &p)
}

// Violations returns what was found wrong.
func (c *Client) Violations(ctx context.Context) (v jdsandbox.Violations, err error) {
	return v, c.do(ctx, http.MethodGet, "violations", nil, &v)
}

// Calls returns what the log still has of the calls after a Seq, oldest first.
func (c *Client) Calls(ctx context.Context, after int64) ([]jdsandbox.Call, error) {
	var page jdsandbox.CallPage
	err := c.do(ctx, http.MethodGet, "calls?limit=10000&after="+strconv.FormatInt(after, 10), nil, &page)
	return page.Calls, err
}

// Counters returns the counters.
func (c *Client) Counters(ctx context.Context) (n jdsandbox.Counters, err error) {
	return n, c.do(ctx, http.MethodGet, "counters", nil, &n)
}

// Clock returns the warehouse's time.
func (c *Client) Clock(ctx context.Context) (s jdsandbox.ClockState, err error) {
	return s, c.do(ctx, http.MethodGet, "clock", nil, &s)
}

// Advance advances the warehouse's clock.
func (c *Client) Advance(ctx context.Context, by time.Duration) error {
	return c.do(ctx, http.MethodPost, "clock", map[string]any{"advance": by.String()}, nil)
}

// SetSpeed makes the warehouse's clock run that many times as fast as the host's; 0 stops it.
func (c *Client) SetSpeed(ctx context.Context, speed float64) error {
	return c.do(ctx, http.MethodPost, "clock", map[string]any{"speed": speed}, nil)
}

// SetToken adds or replaces a token of an app; "" is the only app.
func (c *Client) SetToken(ctx context.Context, appKey string, t jdsandbox.Token) error {
	return c.do(ctx, http.MethodPost, "tokens", jdsandbox.TokenChange{Token: t, App: appKey}, nil)
}

// ExpireToken ends a token at a time, or now if it is zero.
func (c *Client) ExpireToken(ctx context.Context, token string, at time.Time) error {
	return c.do(ctx, http.MethodPost, "tokens/expire", jdsandbox.TokenEnd{Token: token, At: at}, nil)
}

// RevokeToken ends a token of a consent and its refresh token.
func (c *Client) RevokeToken(ctx context.Context, token string) error {
	return c.do(ctx, http.MethodPost, "tokens/revoke", jdsandbox.TokenEnd{Token: token}, nil)
}

// StockGoods stocks goods that were not there before, without rows of the flow.
func (c *Client) StockGoods(ctx context.Context, goods ...jdsandbox.Stock) error {
	return c.do(ctx, http.MethodPost, "stock/goods", goods, nil)
}

// Move carries out acts that move stock, all or none, and returns their rows.
func (c *Client) Move(ctx context.Context, acts ...jdsandbox.StockAct) ([]jdsandbox.Movement, error) {
	var page jdsandbox.MovementPage
	err := c.do(ctx, http.MethodPost, "stock/acts", acts, &page)
	return page.Rows, err
}

// FillFlow creates many rows at once.
func (c *Client) FillFlow(ctx context.Context, fill jdsandbox.Fill) error {
	return c.do(ctx, http.MethodPost, "stock/fill", fill, nil)
}

// Stock returns the stock of shops and warehouses.
func (c *Client) Stock(ctx context.Context, q jdsandbox.StockQuery) (s jdsandbox.StockTruth, err error) {
	return s, c.do(ctx, http.MethodGet, "stock?"+chosen(q).Encode(), nil, &s)
}

// Movements returns all rows that the query selects in the order of their creation, page by page; its Limit bounds the
// whole if it is not 0.
func (c *Client) Movements(ctx context.Context, q jdsandbox.StockQuery) ([]jdsandbox.Movement, error) {
	var rows []jdsandbox.Movement
	params, after := chosen(q), q.After
	for {
		limit := 10_000
		if q.Limit > 0 {
			limit = min(limit, q.Limit-len(rows))
		}
		params.Set("after", strconv.FormatInt(after, 10))
		params.Set("limit", strconv.Itoa(limit))
		var page jdsandbox.MovementPage
		if err := c.do(ctx, http.MethodGet, "stock/rows?"+params.Encode(), nil, &page); err != nil {
			return nil, err
		}
		rows = append(rows, page.Rows...)
		if after = page.Next; after == 0 || q.Limit > 0 && len(rows) >= q.Limit {
			return rows, nil
		}
	}
}

func chosen(q jdsandbox.StockQuery) url.Values {
	params := url.Values{}
	for name, value := range map[string]string{"deptNo": q.DeptNo, "warehouseNo": q.WarehouseNo, "shopNo": q.ShopNo, "goodsNo": q.GoodsNo} {
		if value != "" {
			params.Set(name, value)
		}
	}
	return params
}

// Reset forgets all documents and restores the initial knobs, tokens and speed.
func (c *Client) Reset(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "reset", nil, nil)
}

func (c *Client) do(ctx context.Context, verb, path string, body, into any) error {
	name, _, _ := strings.Cut(path, "?")
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("sandbox %s: %w", name, err)
		}
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, verb, c.base+path, content)
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", name, err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", name, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", name, err)
	}
	if res.StatusCode != http.StatusOK {
		var p jdsandbox.Problem
		if json.Unmarshal(raw, &p) != nil || p.Error == "" {
			p.Error = res.Status
		}
		return fmt.Errorf("sandbox %s: %s", name, p.Error)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("sandbox %s: %w", name, err)
	}
	return nil
}
