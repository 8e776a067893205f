package memory

import (
	"testing"
	"testing/synctest"
	"time"

	"stockbridge/pkg/warehouse/warehousetest"
	orderv1 "stockbridge/proto/order/v1"
)

func TestContract(t *testing.T) {
	for name, repeat := range map[string]Repeat{"second document": SecondDocument, "same number": SameNumber, "refused": RefuseRepeat} {
		t.Run(name, func(t *testing.T) {
			warehousetest.TestOrders(t, func(*testing.T) warehousetest.Subject {
				w := &Warehouse{Knobs: Knobs{Repeat: repeat}}
				return warehousetest.Subject{Orders: w, Far: far{w}}
			})
		})
	}
}

// far turns the suite's wishes into knobs.
type far struct{ *Warehouse }

func (f far) LoseAnswer()     { f.Set(func(k *Knobs) { k.LoseReplies++ }) }
func (f far) DropCall()       { f.Set(func(k *Knobs) { k.DropBefore++ }) }
func (f far) Refuse()         { f.Set(func(k *Knobs) { k.Refuse++ }) }
func (f far) Reject()         { f.Set(func(k *Knobs) { k.Reject++ }) }
func (f far) Down(down bool)  { f.Set(func(k *Knobs) { k.Down = down }) }
func (f far) Deny()           { f.Set(func(k *Knobs) { k.NotPermitted = true }) }
func (f far) Expire()         { f.Set(func(k *Knobs) { k.BadToken = true }) }
func (f far) Split(no string) { f.Set(func(k *Knobs) { k.Split = append(k.Split, no) }) }
func (f far) Short(no string) { f.Set(func(k *Knobs) { k.Short = append(k.Short, no) }) }

func (f far) Cancel(no string) { f.Set(func(k *Knobs) { k.Cancel = append(k.Cancel, no) }) }

func (f far) Documents(no string) int { return len(f.Numbers(no)) }

func (f far) Busy(busy bool) {
	f.Set(func(k *Knobs) {
		k.Busy = 0
		if busy {
			k.Busy = time.Second
		}
	})
}

// Tried out by hand, orders move by themselves.
func TestOrdersMoveByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Warehouse{StepEvery: time.Minute}
		taken, err := w.SendOrder(t.Context(), warehousetest.Order("A-1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range walk {
			d, err := w.OrderDetails(t.Context(), taken.WarehouseNo)
			if err != nil || d.State.Status != want || !d.State.At.Equal(time.Now()) {
				t.Errorf("%+v, %v; want %v", d.State, err, want)
			}
			time.Sleep(time.Minute)
		}
		if d, err := w.OrderDetails(t.Context(), taken.WarehouseNo); err != nil || d.State.Status != orderv1.Status_STATUS_DELIVERED {
			t.Errorf("%+v, %v", d.State, err)
		}
	})
}
