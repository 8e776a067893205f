package fault_test

import (
	"errors"
	"fmt"
	"time"

	"stockbridge/pkg/fault"
)

// A caller marks what failed with what to do about it; the mark survives wrapping.
func Example() {
	timeout, closed := errors.New("timeout"), errors.New("connection refused")
	for _, err := range []error{
		closed,
		fault.RetryAfter(2*time.Second, errors.New("quota used up")),
		fault.Hold("shop:acme/S01", fault.Reason{Code: "shop.unknown", EN: "add the shop to the set-up"}),
		fault.Permanent(fault.Reason{Code: "quantity.invalid", Field: "lines[0].quantity", EN: "above 0"}),
		fault.Unknown(timeout),
	} {
		err = fmt.Errorf("push acme/SO-1: %w", err)
		fmt.Printf("%s after %v, cause %q: %v\n", fault.Of(err), fault.After(err), fault.Cause(err), err)
	}
	// Output:
	// transient after 0s, cause "": push acme/SO-1: connection refused
	// wait after 2s, cause "": push acme/SO-1: quota used up
	// held after 0s, cause "shop:acme/S01": push acme/SO-1: shop.unknown: add the shop to the set-up
	// permanent after 0s, cause "": push acme/SO-1: quantity.invalid (lines[0].quantity): above 0
	// unknown after 0s, cause "": push acme/SO-1: timeout
}
