package jdsandbox

import (
	"encoding/json"
	"errors"
	"net/http"
)

// Taken is the answer to an order of another program.
type Taken struct {
	EclpSoNo string `json:"eclpSoNo"`
}

// Take accepts an order from another program of the merchant's, such as an ERP's own timer: param is the JSON of an
// addOrder. It passes the same checks, and is listed among the documents, but not among the calls, which are those of the
// client under test. No fault strikes it and no limit counts it.
func (jd *JD) Take(param string) (eclpSoNo string, err error) {
	c := &call{arrived: jd.now(), method: "eclp.order.addOrder"}
	no := c.readFields(param)
	if no == nil {
		_, no = jd.serve(c)
	}
	if no != nil {
		return "", errors.New(string(no.Code) + " " + no.EN)
	}
	return c.eclpSoNo, jd.journal.sync()
}

// routeForeign registers what other programs do at JD.
func (jd *JD) routeForeign(handle route) {
	handle("POST orders", func(r *http.Request) (any, error) {
		var param json.RawMessage
		err := read(r, &param)
		var no string
		if err == nil {
			no, err = jd.Take(string(param))
		}
		return Taken{no}, bad(err)
	})
}
