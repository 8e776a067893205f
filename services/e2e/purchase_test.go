package e2e_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/e2e/testenv"
)

// purchases is a world whose seller has a supplier.
type purchases struct {
	*testenv.World
	t *testing.T
}

func startPurchases(t *testing.T, o testenv.Options) *purchases {
	t.Helper()
	o.Setup = func(s *sellerv1.Setup) {
		s.Suppliers = []*sellerv1.Mapping{{Code: "TEA-FARM", Number: "EMS4398046512427"}}
	}
	p := &purchases{testenv.Start(t, o), t}
	// An audit that is older than the ledger may have been sent before it: only a person can tell.
	time.Sleep(time.Until(p.since().Add(6 * time.Second)))
	return p
}
