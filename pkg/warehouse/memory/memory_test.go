package memory

import (
	"testing"
	"testing/synctest"
	"time"

	"stockbridge/pkg/warehouse/warehousetest"
	documentv1 "stockbridge/proto/document/v1"
)

func TestContract(t *testing.T) {
	for name, repeat := range map[string]Repeat{"second document": SecondDocument, "same number": SameNumber, "refused": RefuseRepeat} {
		t.Run(name, func(t *testing.T) {
			warehousetest.TestOrders(t, func(*testing.T) warehousetest.Subject {
				w := &Warehouse{Knobs: Knobs{Repeat: repeat}}
				return warehousetest.Subject{OrderChannel: w.Orders(), Remote: remote{w}}
			})
		})
	}
}

// remote sets the knobs that the suite asks for.
type remote struct{ *Warehouse }

func (f remote) LoseAnswer()     { f.Set(func(k *Knobs) { k.LoseReplies++ }) }
func (f remote) DropCall()       { f.Set(func(k *Knobs) { k.DropBefore++ }) }
func (f remote) Refuse()         { f.Set(func(k *Knobs) { k.Refuse++ }) }
func (f remote) Reject()         { f.Set(func(k *Knobs) { k.Reject++ }) }
func (f remote) Down(down bool)  { f.Set(func(k *Knobs) { k.Down = down }) }
func (f remote) Deny()           { f.Set(func(k *Knobs) { k.NotPermitted = true }) }
func (f remote) Expire()         { f.Set(func(k *Knobs) { k.BadToken = true }) }
func (f remote) Split(no string) { f.Set(func(k *Knobs) { k.Split = append(k.Split, no) }) }
func (f remote) Short(no string) { f.Set(func(k *Knobs) { k.Short = append(k.Short, no) }) }

func (f remote) Cancel(no string) { f.Set(func(k *Knobs) { k.Cancel = append(k.Cancel, no) }) }

func (f remote) Documents(no string) int { return len(f.Numbers(no)) }

func (f remote) Busy(busy bool) {
	f.Set(func(k *Knobs) {
		k.Busy = 0
		if busy {
			k.Busy = time.Second
		}
	})
}

// For trying it out by hand, orders move automatically.
func TestOrdersMoveAutomatically(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Warehouse{StepEvery: time.Minute}
		taken, err := warehousetest.Send(t.Context(), w.Orders(), warehousetest.Order("A-1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range walk {
			docs, err := w.Orders().Read(t.Context(), []string{taken.WarehouseNo})
			if d := docs[taken.WarehouseNo]; err != nil || d.State.Status != want || !d.State.At.Equal(time.Now()) {
				t.Errorf("%+v, %v; want %v", d.State, err, want)
			}
			time.Sleep(time.Minute)
		}
		if docs, err := w.Orders().Read(t.Context(), []string{taken.WarehouseNo}); err != nil || docs[taken.WarehouseNo].State.Status != documentv1.Status_STATUS_DELIVERED {
			t.Errorf("%+v, %v", docs, err)
		}
	})
}
