package memory

import (
	"testing"
	"testing/synctest"
	"time"

	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/warehousetest"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

func TestPurchaseContract(t *testing.T) {
	for name, repeat := range map[string]Repeat{"second document": SecondDocument, "same number": SameNumber, "refused": RefuseRepeat} {
		t.Run(name, func(t *testing.T) {
			warehousetest.TestPurchases(t, func(t *testing.T) warehousetest.PurchaseSubject {
				w := &Warehouse{Knobs: Knobs{Repeat: repeat}}
				return warehousetest.PurchaseSubject{PurchaseChannel: w.Purchases(), Remote: purchaseRemote{remote{w}, t}}
			})
		})
	}
}

// purchaseRemote sets the knobs and receipts that the suite asks for.
type purchaseRemote struct {
	remote
	t *testing.T
}

func (f purchaseRemote) LoseCancel()             { f.Set(func(k *Knobs) { k.CancelLost++ }) }
func (f purchaseRemote) Complete(no string)      { f.Warehouse.Complete(no) }
func (f purchaseRemote) Documents(no string) int { return len(f.PurchaseNumbers(no)) }

func (f purchaseRemote) Receive(no, lineID string, grade purchasev1.Grade, n int64) {
	if err := f.Warehouse.Receive(no, lineID, grade, n); err != nil {
		f.t.Error(err)
	}
}

func (f purchaseRemote) NextCancel(answer, end warehouse.Verdict) {
	f.Set(func(k *Knobs) {
		switch answer {
		case warehouse.CancelRefused:
			k.CancelRefused++
		case warehouse.CancelPending:
			k.CancelPending++
			k.PendingRefused = end == warehouse.CancelRefused
		}
	})
}

// An earlier receipt may be corrected downwards, but not below nothing.
func TestAReceiptIsCorrected(t *testing.T) {
	w := &Warehouse{}
	p, m := w.Purchases(), warehousetest.Purchase("PO-1")
	receipt, err := p.Send(t.Context(), m, p.Plan(m))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Receive("PO-1", "1", purchasev1.Grade_GRADE_UNSPECIFIED, -1); err == nil {
		t.Error("less than nothing was received")
	}
	for _, n := range []int64{5, -2} {
		if err := w.Receive("PO-1", "1", purchasev1.Grade_GRADE_UNSPECIFIED, n); err != nil {
			t.Error(err)
		}
	}
	if err := w.Receive("PO-1", "9", purchasev1.Grade_GRADE_GOOD, 1); err == nil {
		t.Error("a line that does not exist received goods")
	}
	got, err := p.Read(t.Context(), []string{receipt.WarehouseNo})
	if lines := got[receipt.WarehouseNo].Detail.GetLines(); err != nil || len(lines) != 1 || lines[0].Received != 3 || lines[0].Grade != purchasev1.Grade_GRADE_GOOD {
		t.Errorf("%v, %v", lines, err)
	}
}

// A purchase order that cannot be understood says so, and hides no other.
func TestAnUnreadablePurchaseOrderHidesNoOther(t *testing.T) {
	w := &Warehouse{Knobs: Knobs{Unreadable: []string{"PO-1"}}}
	p := w.Purchases()
	var numbers []string
	for _, no := range []string{"PO-1", "PO-2"} {
		m := warehousetest.Purchase(no)
		receipt, err := p.Send(t.Context(), m, p.Plan(m))
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, receipt.WarehouseNo)
	}
	got, err := p.Read(t.Context(), numbers)
	bad, fine := got[numbers[0]], got[numbers[1]]
	if err != nil || bad.Err == nil || bad.Detail != nil || bad.State.Status != documentv1.Status_STATUS_UNSPECIFIED || fine.Err != nil || fine.Detail == nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// For trying it out by hand, everything arrives after a while.
func TestPurchaseOrdersArriveAutomatically(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Warehouse{StepEvery: time.Minute}
		p, m := w.Purchases(), warehousetest.Purchase("PO-1")
		receipt, err := p.Send(t.Context(), m, p.Plan(m))
		if err != nil {
			t.Fatal(err)
		}
		read := func() warehouse.Document[*purchasev1.Received] {
			got, err := p.Read(t.Context(), []string{receipt.WarehouseNo})
			if err != nil {
				t.Fatal(err)
			}
			return got[receipt.WarehouseNo]
		}
		if d := read(); d.State.Status != documentv1.Status_STATUS_RECEIVED || len(d.Detail.Lines) > 0 {
			t.Errorf("%+v", d)
		}
		time.Sleep(3 * time.Minute)
		d := read()
		if lines := d.Detail.Lines; d.State.Status != documentv1.Status_STATUS_COMPLETED || !d.State.At.Equal(time.Now()) || len(lines) != 2 ||
			lines[0].Received != 10 || lines[1].Received != 4 || lines[1].Grade != purchasev1.Grade_GRADE_DEFECTIVE {
			t.Errorf("%+v", d)
		}
	})
}
