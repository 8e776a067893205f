// Package jdsandbox is a JD that anyone can run: the open-platform gateway and the part of the ECLP warehouse API that
// sales orders, purchase orders and stock need. It is an http.Handler over a state machine, with settings (Knobs, Fault)
// for everything that goes wrong.
//
// It plays JD's API as docs/jd-api.md describes it: the gateway, both authorisation platforms, the calls for master data,
// sales orders, purchase orders and stock. What is unknown about JD is a setting (see Knobs). Where a double shipment or a
// second purchase is at stake the default is the worst that JD may do: a repeated isvUUID or spPoOrderNo creates a second
// document. The sandbox shows those and counts them (see Violations); it never prevents them.
//
// It knows nothing of Stockbridge: any JD client can talk to it unchanged. It does not play JD's calls for returns and
// goods, the further ones for purchase orders (ext.queryPoOrder, closePo, addPoSidDetail), nor HMAC signatures. It imports
// no testing package, because the jd-sandbox binary and `bridgectl up` run it too.
//
// In a test:
//
//	jd, err := jdsandbox.New(jdsandbox.Config{})
//	srv := httptest.NewServer(jd) // the gateway is srv.URL + "/routerjson", the control API srv.URL + "/_sandbox/"
//	jd.AddFault(jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Methods: []string{"eclp.order.addOrder"}, Count: 1})
//	…
//	jd.Advance(24 * time.Hour)
//	jd.Documents(), jd.Purchases(), jd.Violations(), jd.Counters()
//
// # Files
//
//   - gateway.go, codes.go, formatting.go, auth.go: the gateway: parameters, signature, envelope, tokens
//   - orders.go, orderlists.go, document.go, foreign.go: sales orders and their walk through the warehouse
//   - purchases.go, purchasecalls.go: purchase orders, their receipts and their calls
//   - stockcalls.go, flow.go, stock.go, movements.go: stock and its movements
//   - master.go: departments, warehouses, shops, carriers, suppliers, platforms
//   - knobs.go, fault.go, config.go, strict.go: settings
//   - control.go, callers.go, control/: the control API, violations, the log of calls, counters, and a client of it
//   - jd.go, state.go, journal.go: the sandbox itself, its state and the file that keeps it
//
// # Stock
//
// Orders and acts move the stock of goods that were stocked. Each change of a shop's figure is a row that begins with the
// balance at which the previous row ended. The flow calls may distort the rows (see Flow); Movements and Stock return the
// truth.
//
//	jd.StockGoods(jdsandbox.Stock{DeptNo: …, Shops: map[string]int64{"ESP1": 10}})
//	jd.Move(jdsandbox.StockAct{Kind: jdsandbox.Receipt, …, Num: 5})
//
// # Two clocks
//
// The gateway's clock (time stamps of requests, quota, tokens and codes) is the host's, shifted by the knob clock_skew.
// The warehouse's clock (the walk of orders, operateTime) starts with it but can be sped up, stopped and advanced; sped
// up, the warehouse's times are in the future of the host's. Rows of stock and creation times use the host's clock all
// the same, because a client asks for them in windows that end at its own present.
//
// # Determinism
//
// Random choices about one order depend on the seed, the department, the ERP's number and how many came before under that
// number: the same orders have the same history in any interleaving. JD's numbers are assigned in the order of
// arrival.
package jdsandbox
