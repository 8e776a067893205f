package document_test

import (
	"errors"
	"fmt"
	"time"

	"stockbridge/pkg/document"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

// A document is sent, and the answer is lost.
func ExampleNext() {
	k := document.Known{Policy: document.Policy{FirstLookup: time.Second, CallLimit: 10 * time.Second}, Left: time.Minute}
	k.Checks.Done = true
	fmt.Println(document.Next(k).Do == document.ClaimIt)

	k.Claim = document.Claim{Done: true, Claimed: ledger.Claimed{NeverSent: true}}
	fmt.Println(document.Next(k).Do == document.Send)

	k.Answer = document.Answer{Done: true, Err: fault.Unknown(errors.New("connection reset"))}
	step := document.Next(k)
	fmt.Println(step.Do == document.MarkUnknown)

	k.Resolved.Step = step
	step = document.Next(k)
	fmt.Println(step.Final(), fault.After(step.Err), step.Err)
	// Output:
	// true
	// true
	// true
	// true 1s connection reset
}
